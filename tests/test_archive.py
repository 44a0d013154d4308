"""Archives from a real HTTP server on the loopback: whatever goes wrong, a whole archive is taken or none."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.datasets.archive import extracted, fetch
from pipeline.errors import DataError
from tests.archive_site import GOOD, NOISE, WHOLE, Site, get, names, serve, tar_gz, wanted


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


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


def assert_nothing_taken(raw: Path) -> None:
    assert names(raw) == []


def test_downloads_checks_and_records(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    digest = hashlib.sha256(WHOLE).hexdigest()
    raw = tmp_path / "raw"
    record = get(wanted(site.url("a"), sha256=digest, size=len(WHOLE)), raw)
    assert names(raw) == ["set.tar.gz", "source.json"]
    assert (raw / "set.tar.gz").read_bytes() == WHOLE
    assert record == json.loads((raw / "source.json").read_text())
    assert record["file_name"] == "set.tar.gz"
    assert (record["source"], record["sha256"], record["size"]) == (site.url("a"), digest, len(WHOLE))
    assert names(tmp_path) == ["raw"]  # no partial file is left


def test_extracts_below_any_top_folder_and_cleans_up(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    get(wanted(site.url("a")), tmp_path / "raw")
    scratch = tmp_path / "scratch"
    with extracted(tmp_path / "raw", scratch) as folder:
        assert (folder / "labels/one.txt").read_bytes() == b"1"
        assert (folder / "photos/noise.bin").read_bytes() == NOISE
    assert names(scratch) == []
    assert (tmp_path / "raw/set.tar.gz").exists()


def test_archive_without_a_top_folder(site: Site, tmp_path: Path) -> None:
    site.files["a"] = tar_gz({"./labels/one.txt": b"1"})
    get(wanted(site.url("a")), tmp_path / "raw")
    with extracted(tmp_path / "raw", tmp_path / "scratch") as folder:
        assert (folder / "labels/one.txt").read_bytes() == b"1"


@dataclass(frozen=True)
class Bad:
    content: bytes
    message: str
    changes: dict = field(default_factory=dict)


BAD = {
    "web page": Bad(
        b"<!DOCTYPE html><html><head><title>Quota &amp; limits</title>", "web page titled 'Quota & limits'"
    ),
    "truncated": Bad(WHOLE[:200_000], "not a whole tar.gz archive"),
    "truncated checksum": Bad(WHOLE[:-4], "not a whole tar.gz archive"),
    "flipped byte": Bad(WHOLE[:-5] + bytes([WHOLE[-5] ^ 1]) + WHOLE[-4:], "not a whole tar.gz archive"),
    "no archive": Bad(b"nonsense" * 100, "not a whole tar.gz archive"),
    "gzip but no tar": Bad(gzip.compress(b"nonsense" * 1000), "not a whole tar.gz archive"),
    "empty": Bad(b"", "not a whole tar.gz archive"),
    "sha256": Bad(WHOLE, "sha256 is", {"sha256": "0" * 64}),
    "size": Bad(WHOLE, "bytes instead of 7", {"size": 7}),
    "namesake": Bad(tar_gz({"other/images/1.png": b"1"}), "another archive: no labels inside, but other/images"),
    "traversal": Bad(tar_gz(GOOD | {"set-1/../../evil": b""}), "'set-1/../../evil' would be written outside"),
    "absolute": Bad(tar_gz(GOOD | {"/evil": b""}), "'/evil' would be written outside"),
    "symlink": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.SYMTYPE, "/etc")), "'set-1/evil' is a link"),
    "hard link": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.LNKTYPE, "/etc/x")), "'set-1/evil' is a link"),
    "device": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.CHRTYPE)), "'set-1/evil' is a device"),
    "pipe": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.FIFOTYPE)), "'set-1/evil' is a device or other"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_archive_is_named_and_the_next_source_tried(site: Site, tmp_path: Path, bad: Bad) -> None:
    site.files["bad"] = bad.content
    archive = wanted(site.url("bad"), **bad.changes)
    with pytest.raises(DataError) as caught:
        get(archive, tmp_path / "raw")
    assert bad.message in str(caught.value)
    assert_nothing_taken(tmp_path / "raw")
    if not bad.changes:
        site.files["good"] = WHOLE
        record = get(wanted(site.url("bad"), site.url("good")), tmp_path / "raw")
        assert record["source"] == site.url("good")


def test_page_is_recognised_by_its_type_too(site: Site, tmp_path: Path) -> None:
    site.files["a"], site.content_type = b"Please log in", "text/html; charset=utf-8"
    with pytest.raises(DataError, match="a web page instead of the archive"):
        get(wanted(site.url("a")), tmp_path / "raw")


def test_one_message_with_every_source_and_the_way_by_hand(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_ARCHIVES", str(tmp_path))
    site.files["page"] = b"<html>"
    with pytest.raises(DataError) as caught:
        get(wanted(site.url("gone"), site.url("page"), "http://127.0.0.1:9/closed"), tmp_path / "raw")
    lines = str(caught.value).splitlines()
    assert f"PIPELINE_ARCHIVES: no file set.tar.gz in {tmp_path}" in lines[1]
    assert f"{site.url('gone')}: HTTP 404" in lines[2]
    assert f"{site.url('page')}: a web page" in lines[3]
    assert "/closed: " in lines[4] and "refused" in lines[4]
    assert "set.tar.gz into a folder" in lines[5] and "PIPELINE_ARCHIVES" in lines[5]


@pytest.mark.parametrize("name", ["set.tar.gz", "set-abc.tar.gz"])
def test_the_folder_of_archives_comes_first_and_is_only_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    (folder / name).write_bytes(WHOLE)
    folder.chmod(0o555)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PIPELINE_ARCHIVES", "archives")  # relative: to the project's root
    record = get(wanted(site.url("a"), aliases=("set-abc.tar.gz",)), tmp_path / "raw")
    assert record["source"] == "PIPELINE_ARCHIVES" and site.asked == []
    assert str(tmp_path) not in (tmp_path / "raw/source.json").read_text()
    assert (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE
    assert names(folder) == [name]


def test_a_damaged_local_copy_does_not_stand_in_the_way(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set.tar.gz").write_bytes(WHOLE[:1000])
    monkeypatch.setenv("PIPELINE_ARCHIVES", str(tmp_path))
    site.files["a"] = WHOLE
    assert get(wanted(site.url("a")), tmp_path / "raw")["source"] == site.url("a")
    assert (tmp_path / "set.tar.gz").read_bytes() == WHOLE[:1000]


def test_fetched_once(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    archive = wanted(site.url("a"))
    assert get(archive, tmp_path / "raw") == get(archive, tmp_path / "raw")
    assert len(site.asked) == 1
    (tmp_path / "raw/set.tar.gz").write_bytes(WHOLE[:-1])  # damaged since
    get(archive, tmp_path / "raw")
    assert len(site.asked) == 2 and (tmp_path / "raw/set.tar.gz").read_bytes() == WHOLE


def test_generated_dataset_replaces_a_fetched_one(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    raw = tmp_path / "raw"
    get(wanted(site.url("a")), raw)
    assert fetch(None, raw) == {"generated": True}
    assert names(raw) == ["source.json"]
    with extracted(raw, tmp_path / "scratch") as folder:
        assert folder == raw


def missing(raw: Path) -> None:
    (raw / "source.json").unlink()


def shortened(raw: Path) -> None:
    (raw / "set.tar.gz").write_bytes(WHOLE[:-1])


def damaged(raw: Path) -> None:
    (raw / "set.tar.gz").write_bytes(WHOLE[:1000] + b"\0" * (len(WHOLE) - 1000))


@pytest.mark.parametrize(
    ("harm", "message"),
    [(missing, "source.json is missing"), (shortened, "is not the file"), (damaged, "could not be unpacked")],
)
def test_extracting_refuses_what_is_not_whole(
    site: Site, tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    site.files["a"] = WHOLE
    get(wanted(site.url("a")), tmp_path / "raw")
    harm(tmp_path / "raw")
    with pytest.raises(DataError, match=message), extracted(tmp_path / "raw", tmp_path / "scratch"):
        pytest.fail("a damaged archive was handed out")
    assert not (tmp_path / "scratch").exists() or names(tmp_path / "scratch") == []
