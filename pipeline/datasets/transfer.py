"""One file over HTTP: resumed where it broke off, retried with back-off, never mistaken for whole."""

from __future__ import annotations

import errno
import html
import re
import shutil
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from pipeline import paths
from pipeline.errors import DataError

BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_ATTEMPTS = 5  # in a row without a single new byte
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be better the next time
_LOCAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class SourceError(DataError):
    """What one source answered instead of the right archive; the next source is tried."""


class _Broken(OSError):
    """The connection ended before the file did."""


def byte_progress(title: str, total: int | None, done: int = 0) -> tqdm:
    """Progress in bytes, with rate, and time left where `total` is known; silent without a terminal."""
    return tqdm(desc=title, total=total, initial=done, unit="B", unit_scale=True, disable=None)


def download(url: str, part: Path, size: int | None = None, pause: float = 1.0) -> None:
    """Bring `url` into the file `part`, which may hold the beginning of it from an earlier, interrupted call.

    A beginning is continued only if the server confirms (If-Range) that the file is still the same one; what
    that takes is kept beside it, in `<part>.json`. size: bytes expected, if known. pause: seconds before the
    second attempt, doubled each time. Raises SourceError with the server's answer; DataError if the disk is
    full.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _length(part)
        try:
            return _attempt(url, part, size)
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in _LOCAL:
                raise DataError(f"{part} can't be written: {error}. Mend that, then run it again.") from error
            if isinstance(error, urllib.error.HTTPError) and error.code not in _AGAIN:
                raise SourceError(_answer(error)) from error
            failures = 1 if _length(part) > before else failures + 1
            if failures == _ATTEMPTS:
                raise SourceError(f"{_answer(error)} ({_ATTEMPTS} attempts)") from error
        time.sleep(pause * 2 ** (failures - 1))


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise DataError unless `folder`'s disk has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{purpose} needs {needed / 1e9:.2f} GB in {folder}, but only {free / 1e9:.2f} GB are free. "
            "Free some space, then run it again."
        )


def _attempt(url: str, part: Path, size: int | None) -> None:
    state = part.with_name(part.name + ".json")
    have = _length(part)
    validator = paths.read_json(state)["validator"] if have and state.exists() else None
    headers = {"User-Agent": "Mozilla/5.0", "Accept-Encoding": "identity"}
    if validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it had arrived before the interruption
        part.unlink()
        raise _Broken("what had arrived no longer fits the file on the server") from error
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _Broken("the server resumed at the wrong place")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if size and total and total != size:
            raise SourceError(f"it is another file: {total} bytes instead of {size}")
        first = response.read1(BLOCK)
        if not resumed:
            _refuse_page(response.headers.get_content_type(), first)
        require_space(part.parent, max((total or size or 0) - start, 0), "the download")
        if not resumed:
            part.unlink(missing_ok=True)  # a beginning and its validator never belong to different files
            paths.write_json(state, {"url": url, "validator": _validator(response.headers)})
        title = f"download {part.stem}"
        with part.open("ab") as file, byte_progress(title, total or size, start) as progress:
            block = first
            while block:
                file.write(block)
                progress.update(len(block))
                block = response.read1(BLOCK)
    if total is not None and _length(part) < total:
        raise _Broken(f"the connection closed after {_length(part)} of {total} bytes")


def _validator(headers) -> str | None:
    """What If-Range may carry: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _refuse_page(content_type: str, first: bytes) -> None:
    if content_type != "text/html" and not re.match(rb"\s*<(!doctype html|html)", first, re.IGNORECASE):
        return
    title = re.search(rb"<title[^>]*>(.*?)</title>", first, re.IGNORECASE | re.DOTALL)
    name = f" titled '{html.unescape(title[1].decode(errors='replace')).strip()}'" if title else ""
    raise SourceError(f"a web page{name} instead of the archive (a quota, consent or login page)")


def _answer(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
