"""Downloads that break off, on a real server: resumed where that is safe, begun again where it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.datasets import transfer
from pipeline.errors import DataError
from tests.archive_site import GOOD, NOISE, WHOLE, Site, get, names, serve, tar_gz, wanted


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as served:
        yield served


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_ARCHIVES", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


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


def test_full_disk_is_told_before_anything_is_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["a"] = WHOLE
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="the download needs 0.00 GB"):
        get(wanted(site.url("a")), tmp_path / "raw")
    assert names(tmp_path / "raw") == []
    assert not any(path.stat().st_size for path in (tmp_path / "raw.partial").iterdir())


def test_disk_that_fills_while_writing_is_not_blamed_on_the_source(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "_attempt", full)
    with pytest.raises(DataError, match="can't be written: .*No space left"):
        get(wanted(site.url("a")), tmp_path / "raw")
