"""What the tests of archives share: an archive, and a real HTTP server that misbehaves to order."""

from __future__ import annotations

import io
import random
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pipeline.datasets.archive import Archive, fetch

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
    etag: str | None = '"v1"'
    drops: list[int] = field(default_factory=list)  # close the connection after so many bytes, once each
    failures: list[int] = field(default_factory=list)  # answer these statuses first, once each
    chunked: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, content = self.site, self.site.files.get(self.path[1:])
        asked = self.headers.get("Range")
        site.asked.append((self.path, asked))
        self.close_connection = True
        if site.failures or content is None:
            return self.send_error(site.failures.pop(0) if site.failures else 404)
        start = 0
        if asked and site.etag and self.headers.get("If-Range") == site.etag:
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
        self.send_header("Content-Type", site.content_type)
        if site.etag:
            self.send_header("ETag", site.etag)
        body = content[start:]
        sent = body[: site.drops.pop(0)] if site.drops else body
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            end = b"0\r\n\r\n" if sent == body else b""
            self.wfile.write(f"{len(sent):x}\r\n".encode() + sent + b"\r\n" + end)
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(sent)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[Site]:
    """A site on the loopback, for as long as the block runs."""
    served = Site()
    handler = type("SiteHandler", (Handler,), {"site": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        served.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        server.shutdown()


def wanted(*sources: str, **changes: object) -> Archive:
    return replace(Archive("set.tar.gz", sources, None, None, "labels"), **changes)


def get(archive: Archive, raw: Path) -> dict:
    return fetch(archive, raw, pause=0.001)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
