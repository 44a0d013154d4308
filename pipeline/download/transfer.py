"""One file, over HTTP or from a folder: resumed where it broke off, retried with back-off, never mistaken for whole."""

from __future__ import annotations

import errno
import html
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.download.connection import build_opener, check_address

BLOCK = 1 << 20
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be better the next time
_TIMEOUT = 60.0  # seconds without a byte
_ATTEMPTS = 5  # in a row without progress, which is so many bytes:
_PROGRESS = 16 << 10
MAX_FILE = 1 << 40  # bytes; the largest data set that we read has 4 GB
_LONGEST_VALIDATOR = 1000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_LOCAL = _FULL | {errno.EACCES, errno.EPERM}

T = TypeVar("T")


class SourceError(DataError):
    """What one source answered instead of the right archive; the next source is tried."""


class _Broken(OSError):
    """The connection ended before the file did."""


def byte_progress(title: str, total: int | None, done: int = 0) -> tqdm:
    """Progress in bytes, with rate, and time left where `total` is known; silent without a terminal."""
    return tqdm(desc=title, total=total, initial=done, unit="B", unit_scale=True, disable=None)


def download(
    url: str, part: Path, size: int | None = None, pause: float = 1.0, open_url: Callable | None = None
) -> None:
    """Bring `url` into the file `part`, which may hold the beginning of it from an earlier, interrupted call.

    A beginning is continued only if the server confirms (If-Range) that the file is still the same one; what
    that takes is kept beside it, in `<part>.json`. size: bytes expected, if known. pause: seconds before the
    second attempt, doubled each time. open_url: what `connection.build_opener` gives. Raises SourceError with the
    server's answer; DataError if the disk is full, and then keeps what has arrived.
    """
    open_url = open_url or build_opener()
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        persist(lambda: _attempt(url, part, size, open_url), pause, lambda: _length(part))
    except OSError as error:
        raise _unwritable(part, error) from error


def copy(source: Path, part: Path) -> None:
    """Copy a person's file. Never a link: what happens to the one would happen to the other, and DVC sets modes.

    Raises SourceError if the file can't be read; DataError if there is no room for the copy.
    """
    part.unlink(missing_ok=True)
    try:
        with source.open("rb") as original:
            size = os.fstat(original.fileno()).st_size
            require_space(part.parent, size, f"copying {source.name}")
            with part.open("wb") as file, byte_progress(f"copy {source.name}", size) as progress:
                while block := original.read(BLOCK):
                    file.write(block)
                    progress.update(len(block))
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in _FULL or error.filename == str(part):
            raise _unwritable(part, error) from error
        raise SourceError(f"{source.name} can't be copied: {error}") from error


def persist(attempt: Callable[[], T], pause: float, arrived: Callable[[], int] = lambda: 0) -> T:
    """Call `attempt` until it works; give up after five failures in a row between which next to nothing `arrived`.

    Raises SourceError with the last answer, at once if asking again is no use; OSError if the disk is to blame.
    """
    failures = 0
    last: OSError | HTTPException
    while True:
        before = arrived()
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            if error.code not in AGAIN:
                raise SourceError(_answer(error)) from error
            last = error
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in _LOCAL:
                raise
            last = error
        failures = 1 if arrived() - before >= _PROGRESS else failures + 1
        if failures == _ATTEMPTS:
            raise SourceError(f"{_answer(last)} ({_ATTEMPTS} attempts)") from last
        time.sleep(pause * 2 ** (failures - 1))


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise DataError unless `folder`'s disk has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{purpose} needs {needed / 1e9:.2f} GB in {folder}, but only {free / 1e9:.2f} GB are free. "
            "Free some space, then run it again."
        )


def ask(url: str, open_url: Callable, headers: dict[str, str] | None = None) -> HTTPResponse:
    """The server's answer. Raises SourceError for what is no address; otherwise what `open_url` raises."""
    request = {"User-Agent": "Mozilla/5.0", "Accept-Encoding": "identity"} | (headers or {})
    try:
        check_address(url)
        return open_url(urllib.request.Request(url, headers=request), timeout=_TIMEOUT)
    except (ValueError, InvalidURL) as error:
        raise SourceError(f"no address that can be asked: {error}") from error


def page_title(page: bytes) -> str | None:
    """What a web page calls itself."""
    title = re.search(rb"<title[^>]*>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    return " ".join(html.unescape(title[1].decode(errors="replace")).split()) if title else None


def _attempt(url: str, part: Path, size: int | None, open_url: Callable) -> None:
    state = part.with_name(part.name + ".json")
    have = _length(part)
    known = _read_state(state) if have else {}
    headers = {"Range": f"bytes={have}-", "If-Range": known["validator"]} if known else {}
    try:
        response = ask(url, open_url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it had arrived before the interruption
        part.unlink()
        raise _Broken("what had arrived no longer fits the file on the server") from error
    with response:
        resumed = response.status == 206
        start = have if resumed else 0
        total = None if response.length is None else start + response.length
        if resumed and not _continues(response.headers, start, known.get("size")):
            part.unlink()
            raise _Broken("the server resumed another file, or at another place")
        if size is not None and total not in (None, size):
            raise SourceError(f"it is another file: {total} bytes instead of {size}")
        total = size if total is None else total
        if (total or 0) > MAX_FILE:
            raise SourceError(f"it says that the file has {total:,} bytes; {MAX_FILE:,} are allowed")
        block = response.read1(BLOCK)
        if not resumed:
            _refuse_page(response.headers.get_content_type(), block)
        require_space(part.parent, max((total or 0) - start, 0), "the download")
        if not resumed:
            part.unlink(missing_ok=True)  # a beginning and its validator never belong to different files
            paths.write_json(state, {"url": url, "validator": _validator(response.headers), "size": total})
        with part.open("ab") as file, byte_progress(f"download {part.stem}", total, start) as progress:
            while block:
                start += len(block)
                if start > (MAX_FILE if total is None else total):
                    part.unlink()
                    raise SourceError(f"it is another file: more than {total or MAX_FILE:,} bytes came")
                file.write(block)
                progress.update(len(block))
                block = response.read1(BLOCK)
    if total is not None and _length(part) < total:
        raise _Broken(f"the connection closed after {_length(part)} of {total} bytes")


def _read_state(state: Path) -> dict:
    """What an earlier call noted of the file; nothing if that is missing or damaged, and so no beginning is kept."""
    try:
        known = paths.read_json(state)
    except DataError:
        return {}
    validator = known.get("validator") if isinstance(known, dict) else None
    fits = isinstance(validator, str) and len(validator) <= _LONGEST_VALIDATOR and validator.isprintable()
    return known if fits else {}


def _continues(headers: Message, start: int, size: int | None) -> bool:
    """Whether a 206 answer continues at byte `start` of a file that still has `size` bytes."""
    found = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)", headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == start and (size is None or found[2] in ("*", str(size)))


def _validator(headers: Message) -> str | None:
    """What If-Range may carry: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _refuse_page(content_type: str, first: bytes) -> None:
    if content_type != "text/html" and not re.match(rb"\s*<(!doctype html|html)", first, re.IGNORECASE):
        return
    title = page_title(first)
    name = f" titled '{title}'" if title else ""
    raise SourceError(f"a web page{name} instead of the archive (a quota, consent or login page)")


def _answer(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__


def _unwritable(part: Path, error: OSError) -> DataError:
    return DataError(f"{part} can't be written: {error}. Fix that, then run it again.")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
