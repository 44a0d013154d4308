"""Archives from a folder and from a real HTTP server on the loopback: the right one is taken whole, and recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.download.archive import extracted, fetch
from pipeline.download.unpack import inspect
from tests.support.archive_site import NOISE, WHOLE, Site, get, names, serve, tar_gz, wanted


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as served:
        yield served


def test_downloads_checks_and_records(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    digest = hashlib.sha256(WHOLE).hexdigest()
    raw = tmp_path / "raw"
    record = get(wanted(site.url("a"), sha256=digest, size=len(WHOLE)), raw)
    assert names(raw) == ["set.tar.gz", "source.json"]
    assert (raw / "set.tar.gz").read_bytes() == WHOLE
    assert record == paths.read_json(raw / "source.json")
    assert record["file_name"] == "set.tar.gz"
    assert (record["source"], record["sha256"], record["size"]) == (site.url("a"), digest, len(WHOLE))
    assert record["published"] is True and record["unpacked_size"] == len(NOISE) + 1
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


def test_whatever_else_lies_in_raw_is_removed(site: Site, tmp_path: Path) -> None:
    """A killed call leaves such files; in DVC's output they would change its hash."""
    site.files["a"] = WHOLE
    raw = tmp_path / "raw"
    for _ in range(2):  # before a fetch, and where the archive is already there
        (raw / "folder").mkdir(parents=True)
        (raw / ".source.json.x1y2").write_text("{")
        (raw / "link").symlink_to(tmp_path)
        get(wanted(site.url("a")), raw)
        assert names(raw) == ["set.tar.gz", "source.json"]
    assert len(site.asked) == 1 and tmp_path.exists()


@pytest.mark.parametrize("record", ["{", "[]", '{"file_name": "set.tar.gz"}'])
def test_a_damaged_record_is_no_record(site: Site, tmp_path: Path, record: str) -> None:
    site.files["a"] = WHOLE
    whole = get(wanted(site.url("a")), tmp_path / "raw")
    (tmp_path / "raw/source.json").write_text(record)
    assert get(wanted(site.url("a")), tmp_path / "raw") == whole and len(site.asked) == 2


def test_one_process_at_a_time(site: Site, tmp_path: Path) -> None:
    (tmp_path / "raw.partial").mkdir()
    with FileLock(tmp_path / "raw.partial/lock"), pytest.raises(DataError, match="another process is filling"):
        get(wanted(site.url("a")), tmp_path / "raw")
    assert site.asked == []


def test_the_beginning_of_another_archive_is_kept(site: Site, tmp_path: Path) -> None:
    site.files |= {"a": WHOLE, "b": tar_gz({"set-2/labels/x": NOISE})}
    site.drops = [100_000, 0, 0, 0, 0]
    with pytest.raises(DataError):
        get(wanted(site.url("a")), tmp_path / "raw")
    get(wanted(site.url("b"), file_name="other.tar.gz"), tmp_path / "raw")
    site.asked.clear()
    get(wanted(site.url("a")), tmp_path / "raw")
    assert [asked for _, asked in site.asked] == ["bytes=100000-"]
    assert names(tmp_path) == ["raw"]


@pytest.mark.parametrize("other", ["mini.tgz", "own/mini.tgz", "{root}/own/mini.tgz", "{site}/mini.tgz"])
def test_another_archive_of_the_layout(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    mini = tar_gz({"mini/labels/one.txt": b"mini"})
    (tmp_path / "own").mkdir()
    (tmp_path / "archives").mkdir()
    (tmp_path / "own/mini.tgz").write_bytes(mini)
    (tmp_path / "archives/mini.tgz").write_bytes(mini)
    (tmp_path / "archives/set.tar.gz").write_bytes(WHOLE)
    site.files["mini.tgz"] = mini
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PIPELINE_ARCHIVES", "archives")
    other = other.format(root=tmp_path, site=site.address)
    archive = wanted(sha256=hashlib.sha256(WHOLE).hexdigest(), size=len(WHOLE))
    raw = tmp_path / "raw"
    for _ in range(2):
        record = get(archive, raw, other)
        assert record["sha256"] == hashlib.sha256(mini).hexdigest() and record["size"] == len(mini)
        assert record["source"] == other and record["published"] is False
        assert (raw / "set.tar.gz").read_bytes() == mini
    assert len(site.asked) == other.startswith("http")  # what came over the net is kept
    with extracted(raw, tmp_path / "scratch") as folder:
        assert (folder / "labels/one.txt").read_bytes() == b"mini"
    assert get(archive, raw)["published"] is True  # and back again
    assert (raw / "set.tar.gz").read_bytes() == WHOLE


def test_another_archive_that_is_the_published_one(site: Site, tmp_path: Path) -> None:
    site.files["a"] = WHOLE
    record = get(wanted(sha256=hashlib.sha256(WHOLE).hexdigest()), tmp_path / "raw", site.url("a"))
    assert record["published"] is True


def test_a_persons_own_file_that_changed_is_copied_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (b"1", b"2"):
        Path("own.tgz").write_bytes(tar_gz({"labels/one.txt": content}))
        get(wanted(), tmp_path / "raw", "own.tgz")
        assert (tmp_path / "raw/set.tar.gz").read_bytes() == Path("own.tgz").read_bytes()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("gone.tgz", "gone.tgz: there is no file .*/gone.tgz"),
        ("~nobody-known/gone.tgz", "there is no file"),
        ("s3://bucket/a.tgz", "an address of a kind that can't be fetched"),
        ("{site}/gone", "HTTP 404"),
        ("{site}/other", "another archive: no labels inside"),
    ],
)
def test_another_archive_that_is_no_good(site: Site, tmp_path: Path, other: str, message: str) -> None:
    site.files["other"] = tar_gz({"x/y": b""})
    with pytest.raises(DataError, match=f"(?s)data.archive could not be used.*{message}.*null is the published"):
        get(wanted(site.url("a")), tmp_path / "raw", other.format(site=site.address))
    assert names(tmp_path / "raw") == [] and "/a" not in dict(site.asked)


def test_a_generated_dataset_has_no_other_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.archive is mini.tgz, but this dataset comes from no archive"):
        get(None, tmp_path / "raw", "mini.tgz")


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(DataError, match=r"data/raw can't be filled: .*Not a directory"):
        get(wanted(), tmp_path / "data/raw")


def test_every_marker_must_lie_below_one_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(tar_gz({"./top/a/1.npy": b"12", "top/b/2.png": b"3", "top/sets/train.txt": b"", "x/a/1.txt": b""}))
    assert inspect(path, ("a/*.npy", "b", "sets/*.txt")) == {"root": "top", "unpacked_size": 3}
    assert inspect(path, ("a",))["root"] == "x"  # the shortest; one marker alone can't tell
    assert inspect(path, ("top/b/2.png",))["root"] == ""
    for missing in ("a/*.mat", "A/*.npy", "1.np", "b/3.png", "a/1.npy/x"):
        with pytest.raises(DataError, match=rf"another archive: no {missing.replace('*', '.')} inside, but"):
            inspect(path, ("b", missing))
    with pytest.raises(DataError, match=r"a/1.txt and b are not below one folder"):
        inspect(path, ("a/1.txt", "b"))


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
    [(missing, "source.json is missing"), (shortened, "is not the file"), (damaged, "is not the file")],
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
