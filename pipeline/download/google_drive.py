"""Files on Google Drive: gdown finds the address of the bytes, `transfer` brings them.

Google puts a page between the public link and a large file (no scan for viruses, a quota, a login). gdown reads that
page. The bytes do not go through gdown: it forgets between two calls which version of the file it had begun, so that
it could join the halves of different files.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin

from pipeline.download import transfer
from pipeline.download.connection import build_opener
from pipeline.download.transfer import AGAIN, SourceError, ask, page_title, persist

SITE = "https://drive.google.com"
_PAGE = 4 << 20  # bytes of a page that are read; Google's have some thousand
_LINK = re.compile(r"gdrive:(.*)|https?://(?:drive|docs)\.google\.com/(?:file/d/|.*[?&]id=)([^/?&#]+).*")


def file_id(source: str) -> str | None:
    """The id in `gdrive:<id>` or in a link that Drive shows for sharing a file; None for any other source."""
    found = _LINK.fullmatch(source)
    return None if found is None else found[1] or found[2] or ""


def download(file: str, part: Path, size: int | None = None, pause: float = 1.0) -> None:
    """Bring the public file of that id into `part`, resumed and retried as `transfer.download` does.

    Raises SourceError with Google's answer and the address that a person can open instead; DataError if the disk
    is full.
    """
    if not re.fullmatch(r"[\w-]+", file):
        raise SourceError(f"{file!r} is no id of a file on Google Drive; those are letters, digits, - and _")
    address = f"{SITE}/uc?id={file}"
    # Google lets pass whom it has shown the page, and knows them by their cookies.
    open_url = build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    try:
        url = persist(lambda: _resolve(address, open_url), pause)
        transfer.download(url, part, size, pause, open_url)
    except SourceError as error:
        raise SourceError(f"{error}. It may still open in a browser: {address}") from error


def _resolve(address: str, open_url: Callable) -> str:
    """The address of the bytes themselves. Raises SourceError with what the page says instead."""
    response: HTTPResponse | HTTPError
    try:
        response = ask(address, open_url)
    except HTTPError as error:
        if error.code in AGAIN:
            raise
        response = error  # a page too, which may say more than the number
    with response:
        if response.status == 200 and response.headers.get_content_type() != "text/html":
            return response.url  # a small file comes without a page in between
        page = response.read(_PAGE)

    from gdown.download import get_url_from_gdrive_confirmation  # late: half a second
    from gdown.exceptions import FileURLRetrievalError

    try:
        return urljoin(response.url, get_url_from_gdrive_confirmation(page.decode(errors="replace")))
    except FileURLRetrievalError as error:
        answer = " ".join(re.sub("<[^>]*>", "", str(error)).split()).rstrip(".")
    except (LookupError, AssertionError) as error:  # how gdown takes a form without an address
        answer = f"gdown can't read the page ({error!r})"
    status = "" if response.status == 200 else f"HTTP {response.status} {response.reason}, "
    title = page_title(page)
    raise SourceError(f"{status}a web page{f' titled {title!r}' if title else ''} instead of the file: {answer}")
