"""Archives of other kinds than tar.gz, and folders with the unpacked files: the same dataset comes out of each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import stages.download
import stages.prepare
from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.download.archive import extracted
from stages._entry import run_stage
from tests.download.test_bad_archive import tar_of, zip_of
from tests.support.archive_site import GOOD, NOISE, get, names, tar_gz, wanted
from tests.support.nyud_archive import TOP, nyud_files, write_tgz
from tests.support.pascal_archive import pascal_tgz


def write(folder: Path, files: dict[str, bytes] = GOOD) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar.gz": tar_gz,
    "tar": lambda files: tar_of("", files),
    "tar.xz": lambda files: tar_of("xz", files),
    "zip": zip_of,
}


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's root without a folder of archives."""
    monkeypatch.chdir(tmp_path)
    for name in ("PIPELINE_ARCHIVES", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_told_by_its_content_whatever_its_name(local: Path, kind: str) -> None:
    Path("mine.download").write_bytes(KINDS[kind](GOOD))
    record = get(wanted(), local / "raw", "mine.download")
    assert record["unpacked_size"] == len(NOISE) + 1 and record["root"] == "set-1"
    with extracted(local / "raw", local / "scratch") as folder:
        assert contents(folder) == {"labels/one.txt": b"1", "photos/noise.bin": NOISE}
    assert names(local / "scratch") == []


@pytest.mark.parametrize("kind", KINDS)
def test_damage_after_the_download_is_noticed(local: Path, kind: str) -> None:
    content = KINDS[kind](GOOD)
    Path("mine").write_bytes(content)
    record = get(wanted(), local / "raw", "mine")
    middle = len(content) // 2
    damaged = content[:middle] + bytes(len(content) - middle)
    (local / "raw" / record["file_name"]).write_bytes(damaged)
    with pytest.raises(DataError, match="is not the file that"), extracted(local / "raw", local / "scratch"):
        pass
    assert not (local / "scratch").exists()


@pytest.mark.parametrize("name", ["sets", "sets/set-1"])
def test_a_folder_is_read_where_it_lies(local: Path, name: str) -> None:
    write(local / "sets")
    record = get(wanted(), local / "raw", name)
    assert names(local / "raw") == ["source.json"]
    assert record == paths.read_json(local / "raw/source.json")
    assert (record["published"], record["source"], record["size"]) == (False, name, len(NOISE) + 1)
    assert str(local) not in (local / "raw/source.json").read_text()
    with extracted(local / "raw", local / "scratch") as folder:
        assert folder == local / "sets/set-1"
    assert not (local / "scratch").exists()
    assert contents(local / "sets") == GOOD


def test_the_digest_of_a_folder_by_hand(local: Path) -> None:
    write(local / "set", {"labels/b": b"22", "labels/a": b"1"})
    by_hand = hashlib.sha256(b"8 labels/a 1\n" + b"1" + b"8 labels/b 2\n" + b"22").hexdigest()
    assert get(wanted(), local / "raw", "set")["sha256"] == by_hand


def test_a_folder_of_archives_may_hold_the_folder(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name in data.archive; and without being named where no checksum says what is published."""
    write(local / "archives/own")
    monkeypatch.setenv("PIPELINE_ARCHIVES", "archives")
    assert get(wanted(), local / "raw", "own")["published"] is False
    record = get(wanted(aliases=("own",)), local / "raw")
    assert (record["published"], record["source"]) == (True, "PIPELINE_ARCHIVES")
    with extracted(local / "raw", local / "scratch") as folder:
        assert folder == local / "archives/own/set-1"
    with pytest.raises(DataError, match=r"PIPELINE_ARCHIVES: no file set.tar.gz or own"):
        get(wanted(aliases=("own",), sha256="0" * 64), local / "raw")


def edit(folder: Path) -> None:
    (folder / "labels/one.txt").write_bytes(b"2")


def add(folder: Path) -> None:
    (folder / "labels/two.txt").write_bytes(b"")


def rename(folder: Path) -> None:
    (folder / "labels/one.txt").rename(folder / "labels/three.txt")


def remove(folder: Path) -> None:
    (folder / "photos/noise.bin").unlink()


@pytest.mark.parametrize("change", [edit, add, rename, remove, shutil.rmtree])
def test_a_folder_that_has_changed_is_noticed_until_it_is_recorded_again(local: Path, change) -> None:
    write(local / "sets")
    first = get(wanted(), local / "raw", "sets/set-1")
    change(local / "sets/set-1")
    with (
        pytest.raises(DataError, match="changed since `dvc repro download` recorded them: run `dvc repro -f download`"),
        extracted(local / "raw", local / "scratch"),
    ):
        pass
    if change is not shutil.rmtree:
        assert get(wanted(), local / "raw", "sets/set-1")["sha256"] != first["sha256"]
        with extracted(local / "raw", local / "scratch"):
            pass


def test_a_folder_that_changes_while_it_is_read(local: Path) -> None:
    write(local / "set-1", {"labels/one.txt": b"1"})
    get(wanted(), local / "raw", "set-1")
    with (
        pytest.raises(DataError, match="a file has changed while it was read"),
        extracted(local / "raw", local / "scratch") as folder,
    ):
        edit(folder)


def test_links_in_a_folder_are_followed_but_not_in_circles(local: Path) -> None:
    write(local / "elsewhere", {"one.txt": b"1"})
    (local / "set").mkdir()
    (local / "set/labels").symlink_to(local / "elsewhere")
    assert get(wanted(), local / "raw", "set")["size"] == 1
    (local / "elsewhere/back").symlink_to(local / "set")
    with pytest.raises(DataError, match="labels/back in it is a link to a folder above it"):
        get(wanted(), local / "raw", "set")


def test_what_a_folder_may_not_hold(local: Path) -> None:
    write(local / "set", {"labels/one.txt": b"1"})
    os.mkfifo(local / "set/labels/pipe")
    with pytest.raises(DataError, match="labels/pipe in it is neither a file nor a folder"):
        get(wanted(), local / "raw", "set")
    write(local / "other", {"images/1.png": b"1"})
    with pytest.raises(DataError, match=r"it is another archive: no labels inside, but images/1.png"):
        get(wanted(), local / "raw", "other")


def test_nothing_in_the_way_of_the_stage_is_taken_for_a_source(local: Path) -> None:
    """`download` empties data/raw first: what lies there would be lost."""
    write(local / "raw")
    for name in ("raw", "raw/set-1", "sub/../raw/set-1"):
        with pytest.raises(DataError, match="is emptied before it is filled: keep it elsewhere"):
            get(wanted(), local / "raw", name)
    assert contents(local / "raw") == GOOD


def unpacked_nyud(folder: Path) -> str:
    write(folder, nyud_files())
    return f"{folder.name}/{TOP}"


def unpacked_pascal(folder: Path) -> str:
    shutil.unpack_archive(pascal_tgz(folder.with_suffix(".tgz"), 2, 1), folder, "gztar", filter="data")
    return folder.name


def plain_tar_nyud(folder: Path) -> str:
    folder.with_suffix(".tar").write_bytes(tar_of("", nyud_files()))
    return f"{folder.name}.tar"


@pytest.mark.parametrize(
    ("dataset", "make"),
    [("nyud", unpacked_nyud), ("nyud", plain_tar_nyud), ("pascal_context", unpacked_pascal)],
)
@pytest.mark.slow
def test_published_datasets_come_out_the_same(local: Path, root: Path, dataset: str, make) -> None:
    """Through the stages: the digest of what is packed is that of the usual tar.gz."""
    params = yaml.safe_load((root / f"profiles/{dataset}.yaml").read_text())
    shutil.copy(root / "dvc.yaml", local)
    usual = "usual.tgz"
    if dataset == "nyud":
        write_tgz(nyud_files(), local / usual)
    else:
        pascal_tgz(local / usual, 2, 1)
    digests = []
    for archive in (usual, make(local / "own")):
        params["data"]["archive"] = archive
        (local / "params.yaml").write_text(yaml.safe_dump(params))
        for main in (stages.download.main, stages.prepare.main):
            with pytest.raises(SystemExit) as ended:
                run_stage(main, argv=[])
            assert ended.value.code == 0
        digests.append(json.loads((local / "data/prepared/dataset.json").read_text())["digest"])
    assert digests[0] == digests[1]
