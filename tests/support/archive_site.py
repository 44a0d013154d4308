"""What the tests of archives share: an archive, and a real HTTP server that misbehaves to order."""

from __future__ import annotations

import io
import random
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.download.archive import fetch
from pipeline.download.catalog import Archive

NOISE = random.Random(0).randbytes(300_000)  # does not compress, so an archive is cut where we say
GOOD = {"set-1/labels/one.txt": b"1", "set-1/photos/noise.bin": NOISE}


def tar_gz(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


WHOLE = tar_gz(GOOD)


@dataclass
class Site:
    """What the server serves and how it behaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    content_type: str = "application/gzip"
    pages: set[str] = field(default_factory=set)  # files of type text/html, which set a cookie
    etag: str | None = '"v1"'
    modified: str | None = None
    obeys_if_range: bool = True
    drops: list[int] = field(default_factory=list)  # close the connection after so many bytes, once each
    failures: list[int] = field(default_factory=list)  # answer these statuses first, once each
    chunked: bool = False
    pause: float = 0.0  # seconds after each 16 kB
    hold: float | None = None  # no further than about this byte of the file, until it is changed
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    cookies: list[str | None] = field(default_factory=list)  # those that came with each request
    sent: int = 0  # bytes of files, in all

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, name = self.site, self.path[1:]
        content = site.files.get(name)
        asked = self.headers.get("Range")
        site.asked.append((self.path, asked))
        site.cookies.append(self.headers.get("Cookie"))
        self.close_connection = True
        if site.failures or content is None:
            return self.send_error(site.failures.pop(0) if site.failures else 404)
        start = 0
        if asked and (not site.obeys_if_range or self.headers.get("If-Range") in {site.etag, site.modified} - {None}):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "text/html" if name in site.pages else site.content_type)
        for header, value in (("ETag", site.etag), ("Last-Modified", site.modified)):
            if value:
                self.send_header(header, value)
        if name in site.pages:
            self.send_header("Set-Cookie", "seen=page")
        self.send_body(content[start:], start)

    def send_body(self, body: bytes, start: int) -> None:
        site = self.site
        sent = body[: site.drops.pop(0)] if site.drops else body
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            end = b"0\r\n\r\n" if sent == body else b""
            self.wfile.write(f"{len(sent):x}\r\n".encode() + sent + b"\r\n" + end)
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, len(sent), 1 << 14):
            piece = sent[at : at + (1 << 14)]
            self.wfile.write(piece)
            site.sent += len(piece)
            time.sleep(site.pause)
            while site.hold is not None and start + at > site.hold:
                time.sleep(0.001)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone, killed perhaps, is what the tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve() -> Iterator[Site]:
    """A site on the loopback for as long as the block runs, which no proxy or folder of archives comes before."""
    served = Site()
    handler = type("SiteHandler", (Handler,), {"site": served})
    with Server(("127.0.0.1", 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("PIPELINE_ARCHIVES", "DVC_ROOT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        served.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        server.shutdown()


def wanted(*sources: str, **changes: object) -> Archive:
    return replace(Archive("set.tar.gz", sources, None, None, "labels"), **changes)


def get(archive: Archive | None, raw: Path, other: str | None = None) -> dict:
    return fetch(archive, raw, other, pause=0.001)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
