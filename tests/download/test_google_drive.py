"""Google Drive, played by a server on the loopback: its pages as gdown knows them, bytes with cookies and ranges."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gdown.parse_url
import pytest

from pipeline.core.errors import DataError
from pipeline.download import google_drive
from pipeline.download.transfer import SourceError
from tests.support.archive_site import WHOLE, Site, get, names, serve, wanted

ID = "1-file_ID"
LINK = f"uc?id={ID}"
BYTES = f"download?id={ID}&export=download&confirm=t&uuid=u-1"

# The page before a file too large to be scanned for viruses. The form's fields make the address of the bytes; Google
# writes it on one line, and gdown reads line by line.
FIELDS = {"id": ID, "export": "download", "confirm": "t", "uuid": "u-1"}
FORM = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in FIELDS.items())
WARNING = f"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="/download" method="get"><input type="submit" value="Download anyway"/>{FORM}</form>
</body></html>""".encode()
QUOTA = b"""<html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-subcaption">Too many users have viewed this file <b>recently</b>.</p></body></html>"""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serve() as served:
        monkeypatch.setattr(google_drive, "SITE", served.address)
        served.files |= {LINK: WARNING.replace(b'"/download"', f'"{served.url("download")}"'.encode()), BYTES: WHOLE}
        served.pages.add(LINK)
        yield served


def refusal(site: Site, tmp_path: Path) -> str:
    """What is told of a file that can't be fetched; the address for the browser is in any case."""
    with pytest.raises(SourceError) as caught:
        google_drive.download(ID, tmp_path / "part", pause=0.001)
    assert not (tmp_path / "part").exists()
    told, _, address = str(caught.value).partition(". It may still open in a browser: ")
    assert address == f"{site.address}/uc?id={ID}"
    return told


def test_large_file_comes_after_the_page_was_seen(site: Site, tmp_path: Path) -> None:
    record = get(wanted(f"gdrive:{ID}"), tmp_path / "raw")
    assert record["source"] == f"gdrive:{ID}" and record["published"] is True
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE
    assert site.asked == [(f"/{LINK}", None), (f"/{BYTES}", None)]
    assert site.cookies == [None, "seen=page"]


def test_an_address_in_the_form_may_be_relative(site: Site, tmp_path: Path) -> None:
    site.files[LINK] = WARNING
    google_drive.download(ID, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == WHOLE


def test_small_file_comes_at_once(site: Site, tmp_path: Path) -> None:
    site.files[LINK], site.pages = WHOLE, set()
    google_drive.download(ID, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == WHOLE


def test_interrupted_and_resumed(site: Site, tmp_path: Path) -> None:
    """Within a call and in a later one, although the page gives another address of the same bytes each time."""
    site.etag, site.modified = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    page = len(site.files[LINK])
    site.drops = [page, 100_000, 50_000, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"closed after 150000 of .*5 attempts.*browser"):
        get(wanted(f"gdrive:{ID}"), tmp_path / "raw")
    site.asked.clear()
    later = BYTES.replace("u-1", "u-2")
    site.files |= {LINK: site.files[LINK].replace(b"u-1", b"u-2"), later: site.files.pop(BYTES)}
    get(wanted(f"gdrive:{ID}"), tmp_path / "raw")
    assert site.asked == [(f"/{LINK}", None), (f"/{later}", "bytes=150000-")]
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE and names(tmp_path) == ["raw"]


def test_a_file_that_was_replaced_is_begun_again(site: Site, tmp_path: Path) -> None:
    site.files[BYTES] = b"older" + WHOLE
    site.drops = [len(site.files[LINK]), 100_000, 0, 0, 0, 0]
    with pytest.raises(DataError):
        get(wanted(f"gdrive:{ID}"), tmp_path / "raw")
    site.files[BYTES], site.etag = WHOLE, '"v2"'
    get(wanted(f"gdrive:{ID}"), tmp_path / "raw")
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE


def test_busy_servers_are_asked_again(site: Site, tmp_path: Path) -> None:
    site.failures = [503, 429]
    google_drive.download(ID, tmp_path / "part", pause=0.001)
    assert (tmp_path / "part").read_bytes() == WHOLE and len(site.asked) == 4


PAGES = {
    "quota": (QUOTA, "'Google Drive - Quota exceeded'", "Too many users have viewed this file recently"),
    "login": (b"<html><title>Sign in</title>", "'Sign in'", "need to change the permission to 'Anyone with the link'"),
    "no title": (b"<html>", "a web page instead", "Cannot retrieve the public link"),
    "form without address": (b'<form id="download-form"></form>', "a web page", "gdown can't read the page"),
}


@pytest.mark.parametrize(("page", "title", "reason"), PAGES.values(), ids=PAGES)
def test_what_the_page_says_is_told(site: Site, tmp_path: Path, page: bytes, title: str, reason: str) -> None:
    site.files[LINK] = page
    told = refusal(site, tmp_path)
    assert title in told and reason in told and "<" not in told
    assert len(site.asked) == 1


def test_quota_that_is_told_only_with_the_bytes(site: Site, tmp_path: Path) -> None:
    site.files[BYTES] = QUOTA
    assert "a web page titled 'Google Drive - Quota exceeded'" in refusal(site, tmp_path)


def test_file_that_does_not_exist(site: Site, tmp_path: Path) -> None:
    del site.files[LINK]
    assert refusal(site, tmp_path).startswith("HTTP 404 Not Found, a web page")


def test_server_that_stays_busy_or_is_dead(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.failures = [500] * 5
    assert refusal(site, tmp_path) == "HTTP 500 Internal Server Error (5 attempts)"
    site.address = "http://127.0.0.1:9"
    monkeypatch.setattr(google_drive, "SITE", site.address)
    assert "refused" in refusal(site, tmp_path)


@pytest.mark.parametrize("source", ["gdrive:", "gdrive:a/b", "gdrive:https://example.org"])
def test_what_is_no_id_is_told_without_asking(site: Site, tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match="is no id of a file on Google Drive"):
        get(wanted(source), tmp_path / "raw")
    assert site.asked == []


LINKS = [
    "file/d/1aB-_9/view?usp=sharing",
    "file/d/1aB-_9",
    "uc?id=1aB-_9",
    "open?id=1aB-_9",
    "uc?export=x&id=1aB-_9&a=b",
]


@pytest.mark.parametrize("link", LINKS)
def test_the_link_that_drive_shows_will_do(link: str) -> None:
    """The same id as gdown finds in it."""
    link = f"https://drive.google.com/{link}"
    assert google_drive.file_id(link) == gdown.parse_url.parse_url(link)[0] == "1aB-_9"


def test_other_sources_are_not_google_drive() -> None:
    assert google_drive.file_id(f"gdrive:{ID}") == ID
    for source in (
        "https://example.org/file/d/1aB/view",
        "https://example.org/?u=https://drive.google.com/file/d/1",
        "a",
    ):
        assert google_drive.file_id(source) is None


def test_gdown_is_imported_only_where_it_is_needed() -> None:
    code = "import sys, pipeline.download.archive; sys.exit('gdown' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
