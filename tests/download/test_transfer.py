"""Downloads that break off, on a real server: resumed where that is safe, begun again where it is not."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import DataError
from pipeline.download import transfer
from tests.support.archive_site import GOOD, NOISE, WHOLE, Site, get, names, serve, tar_gz, wanted


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as served:
        yield served


@pytest.mark.parametrize("chunked", [False, True])
def test_dropped_connections_are_resumed_where_they_broke(site: Site, tmp_path: Path, chunked: bool) -> None:
    site.files["a"] = WHOLE
    site.drops, site.chunked = [100_000, 50_000], chunked
    get(wanted(site.url("a"), sha256=hashlib.sha256(WHOLE).hexdigest()), tmp_path / "raw")
    ranges = [asked for _, asked in site.asked]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_resumes_what_an_earlier_process_left(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    site.drops = [100_000, 0, 0, 0, 0]
    with pytest.raises(DataError, match="closed after 100000 of"):
        get(wanted(site.url("a")), tmp_path / "raw")
    assert names(tmp_path / "raw") == []
    site.asked.clear()
    get(wanted(site.url("a")), tmp_path / "raw")
    assert [asked for _, asked in site.asked] == ["bytes=100000-"]
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE


def test_all_had_arrived_before_the_interruption(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    part = tmp_path / "part"
    transfer.download(site.url("a"), part)
    transfer.download(site.url("a"), part)
    assert part.read_bytes() == WHOLE
    assert [asked for _, asked in site.asked] == [None, f"bytes={len(WHOLE)}-"]


def test_halves_of_different_files_are_never_joined(site: Site, tmp_path: Path) -> None:
    site.files["a"] = tar_gz(GOOD | {"set-1/old": NOISE})
    site.drops = [100_000, 0, 0, 0, 0]
    with pytest.raises(DataError):
        get(wanted(site.url("a")), tmp_path / "raw")
    site.files["a"], site.etag = WHOLE, '"v2"'  # the publisher replaced the file meanwhile
    get(wanted(site.url("a")), tmp_path / "raw")
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_starts_again_where_the_server_cannot_confirm_the_file(site: Site, tmp_path: Path, etag: str | None) -> None:
    site.files["a"], site.etag, site.drops = WHOLE, etag, [100_000]
    get(wanted(site.url("a")), tmp_path / "raw")
    assert [asked for _, asked in site.asked] == [None, None]
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE


def test_busy_server_is_asked_again_a_missing_file_is_not(site: Site, tmp_path: Path) -> None:
    site.files["b"], site.failures = WHOLE, [503, 429]
    get(wanted(site.url("b")), tmp_path / "raw")
    assert len(site.asked) == 3
    site.asked.clear()
    with pytest.raises(DataError, match="HTTP 404"):
        get(wanted(site.url("a")), tmp_path / "other")
    assert len(site.asked) == 1


def test_the_date_confirms_a_file_that_has_no_tag(site: Site, tmp_path: Path) -> None:
    site.files["a"], site.etag, site.modified = WHOLE, None, "Wed, 21 Oct 2015 07:28:00 GMT"
    site.drops = [100_000]
    get(wanted(site.url("a")), tmp_path / "raw")
    assert [asked for _, asked in site.asked] == [None, "bytes=100000-"]
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE


def test_server_that_joins_halves_itself_is_noticed_by_the_size(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "part"
    site.files["a"] = b"older" + WHOLE
    site.drops = [100_000, 0, 0, 0, 0]
    with pytest.raises(DataError):
        transfer.download(site.url("a"), part, pause=0.001)
    site.files["a"], site.etag, site.obeys_if_range = WHOLE, '"v2"', False
    transfer.download(site.url("a"), part, pause=0.001)
    assert part.read_bytes() == WHOLE


DAMAGED = {"absent": None, "empty": "", "half": '{"url": "http', "other": "[1]", "odd": '{"validator": 5}'}


@pytest.mark.parametrize("state", DAMAGED.values(), ids=DAMAGED)
def test_a_beginning_of_which_nothing_is_known_is_not_continued(site: Site, tmp_path: Path, state: str | None) -> None:
    site.files["a"] = WHOLE
    part = tmp_path / "part"
    part.write_bytes(b"something else")
    if state is not None:
        (tmp_path / "part.json").write_text(state)
    transfer.download(site.url("a"), part)
    assert part.read_bytes() == WHOLE and [asked for _, asked in site.asked] == [None]
    assert json.loads((tmp_path / "part.json").read_text())["validator"] == '"v1"'


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a b", "http://host:port/a"])
def test_what_is_no_address_is_told_at_once(tmp_path: Path, url: str) -> None:
    with pytest.raises(transfer.SourceError, match="no address that can be asked"):
        transfer.download(url, tmp_path / "part", pause=100)


def test_file_of_another_size_is_not_even_begun(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    with pytest.raises(transfer.SourceError, match=f"{len(WHOLE)} bytes instead of 7"):
        transfer.download(site.url("a"), tmp_path / "part", 7)
    assert names(tmp_path) == []


def test_full_disk_is_told_before_anything_is_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["a"] = WHOLE
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"the download needs 0.00 GB"):
        get(wanted(site.url("a")), tmp_path / "raw")
    assert names(tmp_path / "raw") == []
    assert names(tmp_path / "raw.partial") == ["lock"]


def full_after(limit: int, writing: str):
    """An `open` for files of that mode whose disk is full after `limit` bytes, as the system would say it."""
    really = Path.open

    class Full(io.FileIO):
        def write(self, block: bytes) -> int:
            room = limit - self.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block[:room])

    def opened(path: Path, mode: str = "r", *args: object, **options: object):
        return io.BufferedWriter(Full(path, mode)) if mode == writing else really(path, mode, *args, **options)

    return opened


def test_disk_that_fills_while_writing_is_not_blamed_on_the_source(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["a"] = WHOLE
    archive = wanted(site.url("a"), site.url("b"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full_after(100_000, "ab"))
        with pytest.raises(DataError, match=r"can't be written: .*No space left.*run it again"):
            get(archive, tmp_path / "raw")
    assert names(tmp_path / "raw") == []
    get(archive, tmp_path / "raw")
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE
    (_, first), (path, again) = site.asked
    assert first is None and path == "/a" and again.startswith("bytes=")  # what had arrived was kept


def test_disk_that_fills_while_copying_is_not_blamed_on_the_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set.tar.gz").write_bytes(WHOLE)
    monkeypatch.setenv("PIPELINE_ARCHIVES", str(tmp_path))
    monkeypatch.setattr(Path, "open", full_after(100_000, "wb"))
    with pytest.raises(DataError, match=r"can't be written: .*No space left"):
        get(wanted(site.url("a")), tmp_path / "raw")
    assert names(tmp_path / "raw") == [] and names(tmp_path / "raw.partial") == ["lock"] and site.asked == []


def test_no_room_for_a_copy_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(WHOLE)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="copying a needs"):
        transfer.copy(tmp_path / "a", tmp_path / "part")
    assert names(tmp_path) == ["a"]


def test_file_that_may_not_be_read_is_the_sources_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so that the refusal is made up."""

    def refuse(path: Path, *args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(transfer.SourceError, match=r"a can't be copied: .*Permission denied"):
        transfer.copy(tmp_path / "a", tmp_path / "part")
