"""HTTP that can't stall and stays HTTP: what Python's own client would wait for, or read, without an end.

Its time limit is for each wait, so a server that sends a byte a minute holds it for years. It reads the page of a
redirect whole, follows one to ftp, and skips answers of 100 and lines of trailers as long as any come.
"""

from __future__ import annotations

import io
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import urlsplit

WINDOW_SECONDS = 120.0  # of waiting, in which
WINDOW_BYTES = 16 << 10  # at least so much must come
OVERHEAD = 1 << 20  # bytes of headers, trailers and lengths of chunks between two pieces of the file


def build_opener(*handlers: urllib.request.BaseHandler) -> Callable[..., HTTPResponse]:
    """`open` for http and https addresses, with redirects to such and proxies as the environment says."""
    return urllib.request.build_opener(_Http, _Https, _Redirects, *handlers).open


def check_address(url: str) -> None:
    """Raise URLError unless this is an http(s) address: others lead to files of this machine."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise URLError(f"it leads to {url[:80]!r}, which is no http(s) address")


class _Steady(io.RawIOBase):
    """The bytes of a connection, as long as they come fast enough and not beyond `budget`."""

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw
        self._waited, self._came = 0.0, 0
        self.budget = OVERHEAD

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]  # Python 3.11 can't name Buffer
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began  # a disk that is slow is not the server's fault
        self._came += count or 0
        self.budget -= count or 0
        if self.budget < 0:
            raise HTTPException(f"more than {OVERHEAD >> 20} MiB of headers or trailers")
        if count and self._waited > WINDOW_SECONDS:
            if self._came < WINDOW_BYTES:
                raise TimeoutError(f"only {self._came} bytes in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An answer that is read through `_Steady`, a piece at a time."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._steady = _Steady(self.fp.detach())
        self.fp = io.BufferedReader(self._steady)

    def read1(self, n: int = -1) -> bytes:
        self._steady.budget = max(n, 0) + OVERHEAD
        return super().read1(n)

    def read(self, amt: int | None = None) -> bytes:
        self._steady.budget = (amt or 0) + OVERHEAD
        return super().read(amt)


class _SteadyConnections(urllib.request.AbstractHTTPHandler):
    """For handlers of urllib: their connections give such answers."""

    def do_open(
        self, http_class: Callable[..., HTTPConnection], req: urllib.request.Request, **options: Any
    ) -> HTTPResponse:
        def connection(*arguments: Any, **more: Any) -> HTTPConnection:
            made = http_class(*arguments, **more)
            made.response_class = _Response
            return made

        return super().do_open(connection, req, **options)


class _Http(_SteadyConnections, urllib.request.HTTPHandler):
    pass


class _Https(_SteadyConnections, urllib.request.HTTPSHandler):
    pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    """At most ten, as Python has it, and none to anything but HTTP."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()  # its page, which may have no end, would be read whole
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
