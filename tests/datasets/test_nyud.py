"""NYUD-v2's reader on small archives in the exact layout, with arrays of known values."""

from __future__ import annotations

import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.core.names import DATASET_TASKS
from pipeline.data.sample import Sample
from pipeline.data.store import Store, check_sample
from pipeline.datasets import get_dataset, nyud
from pipeline.datasets.preparation import prepare
from pipeline.datasets.rooms.dataset import render_frame
from pipeline.download.archive import fetch
from pipeline.params.schema import Data
from tests.support.layout_files import (
    SIZE,
    codes,
    cut,
    depth,
    edge,
    normals,
    photo,
    save,
    save_palette,
    write_frame,
    write_lists,
)

TASKS = DATASET_TASKS["nyud"]
PARAMS = Data(dataset="nyud", tasks=TASKS)
IDS = {"train": ["0003", "0001", "0002"], "val": ["0005", "0004"]}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "NYUD_MT"
    write_lists(folder, **IDS)
    for name in IDS["train"] + IDS["val"]:
        write_frame(folder, name)
    return folder


def read(raw: Path, params: Data = PARAMS) -> Sample:
    return nyud.read(raw, "train", "0001", params)


def test_facts() -> None:
    dataset = get_dataset("nyud")
    assert dataset is nyud.NYUD and dataset.tasks == TASKS
    assert len(set(nyud.CLASSES)) == 40
    # Their codes in the label files, as the 40-class mapping numbers them.
    known = {1: "wall", 2: "floor", 11: "picture", 20: "floor mat", 22: "ceiling", 30: "whiteboard", 31: "person"}
    known |= {36: "bathtub", 37: "bag", 38: "otherstructure", 39: "otherfurniture", 40: "otherprop"}
    assert {code: nyud.CLASSES[code - 1] for code in known} == known
    assert dataset.edge_max_dist == 0.011 and dataset.published == {"train": 795, "val": 654}
    assert pickle.loads(pickle.dumps(dataset)).read is nyud.read


def test_splits_are_the_lists_in_their_order(raw: Path) -> None:
    assert nyud.splits(raw, PARAMS) == IDS


def test_every_value_of_a_frame(raw: Path) -> None:
    sample = read(raw)
    check_sample(sample, TASKS)
    assert sample.id == "0001" and tuple(sample.labels) == TASKS
    assert np.abs(sample.image.astype(int) - photo()).max() <= 3  # JPEG of quality 100
    semseg, metres, vectors, edges = (sample.labels[task] for task in TASKS)
    np.testing.assert_array_equal(semseg.valid, codes() > 0)
    np.testing.assert_array_equal(semseg.value[semseg.valid] + 1, codes()[codes() > 0])
    assert set(semseg.value[semseg.valid]) == set(range(40))
    np.testing.assert_array_equal(metres.value, depth())
    np.testing.assert_array_equal(metres.valid, depth() > 0)
    hole = np.zeros(SIZE, bool)
    hole[10:14, 2:9] = True
    np.testing.assert_array_equal(vectors.valid, ~hole)
    np.testing.assert_allclose(vectors.value, normals(), atol=1e-6)
    np.testing.assert_array_equal(edges.value, edge())
    assert edges.valid.all()


def test_a_rendered_room_comes_back(tmp_path: Path) -> None:
    """Labels of a real scene, written as NYUD-v2 has them: floors face up and what is seen faces the camera."""
    frame, _ = render_frame(0, "train", 3, (48, 64))
    labels = frame.labels
    save(tmp_path / "images/0001.jpg", frame.image)
    save(tmp_path / "segmentation/0001.png", (labels["semseg"].value + 1) * labels["semseg"].valid.astype(np.uint8))
    save(tmp_path / "depth/0001.npy", labels["depth"].value * labels["depth"].valid)
    stored = np.where(labels["normals"].valid[..., None], labels["normals"].value * np.float32([1, -1, -1]), 0)
    save(tmp_path / "normals/0001.npy", stored)
    save(tmp_path / "edge/0001.npy", labels["edge"].value)
    sample = read(tmp_path)
    check_sample(sample, TASKS)
    for task in TASKS:
        got, expected = sample.labels[task], labels[task]
        np.testing.assert_array_equal(got.valid, expected.valid, err_msg=task)
        np.testing.assert_allclose(got.value[got.valid], expected.value[got.valid], rtol=1e-6, atol=1e-6, err_msg=task)


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1)])
def test_normals_face_the_camera_and_have_length_one(raw: Path, signs: tuple[int, int, int]) -> None:
    stored = normals().astype(np.float64) * signs * 1.04  # rounded somewhere, and of another type
    stored[0, 0] = [np.nan, 0, 0]
    stored[0, 1] = [0, np.inf, 0]
    save(raw / "normals/0001.npy", stored)
    label = read(raw).labels["normals"]
    valid = normals().any(axis=-1)
    valid[0, :2] = False
    np.testing.assert_array_equal(label.valid, valid)
    assert label.value.dtype == np.float32
    np.testing.assert_allclose(label.value[valid], normals()[valid], atol=1e-6)


def test_other_types_of_array_and_palette_images_read_the_same(raw: Path) -> None:
    before = read(raw)
    save(raw / "depth/0001.npy", np.asfortranarray(depth().astype(">f8")))
    save(raw / "edge/0001.npy", edge() > 0)
    save_palette(raw / "segmentation/0001.png", codes())
    after = read(raw)
    check_sample(after, TASKS)
    for task in TASKS:
        np.testing.assert_array_equal(after.labels[task].value, before.labels[task].value, err_msg=task)
        np.testing.assert_array_equal(after.labels[task].valid, before.labels[task].valid, err_msg=task)


def test_a_frame_without_any_label_is_a_sample_all_the_same(raw: Path) -> None:
    save(raw / "segmentation/0001.png", np.zeros(SIZE, np.uint8))
    save(raw / "depth/0001.npy", np.zeros(SIZE, np.float32))
    save(raw / "normals/0001.npy", np.zeros((*SIZE, 3), np.float32))
    sample = read(raw)
    check_sample(sample, TASKS)
    assert not any(sample.labels[task].valid.any() for task in ("semseg", "depth", "normals"))


@pytest.mark.parametrize("task", TASKS)
def test_only_what_a_task_needs_is_opened(raw: Path, task: str) -> None:
    folders = {"semseg": "segmentation"} | {other: other for other in ("depth", "normals", "edge")}
    for other, folder in folders.items():
        if other != task:
            shutil.rmtree(raw / folder)
    assert tuple(read(raw, Data(dataset="nyud", tasks=(task,))).labels) == (task,)


FAULTS = {
    "no photograph": ("images/0001.jpg", None, "images/0001.jpg is missing"),
    "no classes": ("segmentation/0001.png", None, "segmentation/0001.png is missing"),
    "no depth": ("depth/0001.npy", None, "depth/0001.npy is missing"),
    "no normals": ("normals/0001.npy", None, "normals/0001.npy is missing"),
    "no edges": ("edge/0001.npy", None, "edge/0001.npy is missing"),
    "small classes": ("segmentation/0001.png", codes()[1:], "segmentation/0001.png is 23x32, its photograph 24x32"),
    "small depth": ("depth/0001.npy", depth()[:, 1:], "depth/0001.npy is 24x31"),
    "turned normals": ("normals/0001.npy", normals().transpose(1, 0, 2), "normals/0001.npy is 32x24"),
    "normals of one channel": ("normals/0001.npy", depth(), r"normals/0001.npy .* expected \(H, W, 3\)"),
    "edges of three channels": ("edge/0001.npy", normals(), r"edge/0001.npy .* expected \(H, W\)"),
    "colours for classes": ("segmentation/0001.png", photo(), "segmentation/0001.png is a RGB image"),
    "classes of 16 bits": ("segmentation/0001.png", codes().astype(np.uint16), "0001.png is a I;16 image"),
    "class 200": ("segmentation/0001.png", codes() + np.uint8(160), "0001.png holds 160, .* 40 classes .* 1 to 40"),
    "depth in whole metres": ("depth/0001.npy", depth().astype(np.uint16), "depth/0001.npy holds uint16"),
    "whole millimetres": ("depth/0001.npy", (depth() * 1000).astype(np.uint16), "depth/0001.npy .* like millimetres"),
    "millimetres": ("depth/0001.npy", depth() * 1000, "depth/0001.npy has a median .* looks like millimetres"),
    "negative depth": ("depth/0001.npy", depth() - 2, "depth/0001.npy holds depth that is negative"),
    "depth of NaN": ("depth/0001.npy", np.where(depth() > 5, np.nan, depth()), "depth/0001.npy .* not finite"),
    "normals in 0..255": ("normals/0001.npy", np.rint((normals() + 1) * 127.5), "normals/0001.npy .* not unit vectors"),
    "half normals": ("normals/0001.npy", normals() / 2, "normals/0001.npy .* not unit vectors: 100 % .* 0.5;"),
    "edges of 255": ("edge/0001.npy", edge() * 255, "edge/0001.npy holds 255, expected only 0 and 1"),
    "edge probabilities": ("edge/0001.npy", edge() * 0.3, "edge/0001.npy holds 0.3, expected only 0 and 1"),
    "edges of NaN": ("edge/0001.npy", edge() * np.nan, "edge/0001.npy holds nan"),
    "pickled depth": ("depth/0001.npy", pickle.dumps(depth()), "depth/0001.npy can't be read"),
    "a web page": ("images/0001.jpg", b"<html>", "images/0001.jpg is not an image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_one_clear_error(raw: Path, fault: str) -> None:
    name, content, message = FAULTS[fault]
    if content is None:
        (raw / name).unlink()
    else:
        save(raw / name, content)
    with pytest.raises(DataError, match=message) as error:
        read(raw)
    assert "\n" not in str(error.value) and "0001" in str(error.value)


@pytest.mark.parametrize(
    "name", ["images/0001.jpg", "segmentation/0001.png", "depth/0001.npy", "normals/0001.npy", "edge/0001.npy"]
)
def test_a_cut_file_is_one_clear_error(raw: Path, name: str) -> None:
    cut(raw / name)
    with pytest.raises(DataError, match=name):
        read(raw)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "gt_sets/val.txt is missing"),
        (b"\n", "gt_sets/val.txt is empty"),
        (b"0004\n0005\n0004\n", "gt_sets/val.txt names 1 ids twice, the first: 0004"),
        (b"../0004\n", "gt_sets/val.txt holds '../0004'"),
        (b"..\n", r"gt_sets/val.txt holds '\.\.'"),
    ],
)
def test_a_bad_list_is_one_clear_error(raw: Path, content: bytes | None, message: str) -> None:
    (raw / "gt_sets/val.txt").unlink()
    if content is not None:
        save(raw / "gt_sets/val.txt", content)
    with pytest.raises(DataError, match=message):
        nyud.splits(raw, PARAMS)


def pack(folder: Path, archive: Path) -> str:
    """Pack the dataset below a top folder; return what data.archive calls it."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "NYUD_MT")
    return str(archive)


def test_from_the_archive_to_the_store(raw: Path, tmp_path: Path) -> None:
    record = fetch(nyud.NYUD.archive, tmp_path / "raw", pack(raw, tmp_path / "mini.tgz"))
    assert not record["published"], "so that neither counts nor scores pass for those of all of NYUD-v2"
    info = prepare(tmp_path / "raw", tmp_path / "prepared", PARAMS, workers=1)
    assert info.dataset == "nyud" and info.splits == {"train": 3, "val": 2} and not info.published
    sample = Store(tmp_path / "prepared/train", TASKS)[1]
    expected = read(raw)
    assert sample.id == "0001"
    for task in TASKS:
        np.testing.assert_array_equal(sample.labels[task].value, expected.labels[task].value, err_msg=task)
        np.testing.assert_array_equal(sample.labels[task].valid, expected.labels[task].valid, err_msg=task)


def test_archives_of_the_same_name_by_others_are_named(raw: Path, tmp_path: Path) -> None:
    for path in (raw / "segmentation").iterdir():
        path.rename(path.with_suffix(".mat"))
    with pytest.raises(DataError, match=r"ASTMT's NYUD_MT.tgz"):
        fetch(nyud.NYUD.archive, tmp_path / "raw", pack(raw, tmp_path / "astmt.tgz"))
    for path in (*(raw / "segmentation").iterdir(), *(raw / "images").iterdir()):
        path.rename(path.with_suffix(".png"))
    with pytest.raises(DataError, match=r"ATRC's NYUDv2.tar.gz, with frames of 425x560"):
        fetch(nyud.NYUD.archive, tmp_path / "raw", pack(raw, tmp_path / "atrc.tgz"))


def test_the_published_archive_is_one_size_only(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archives").mkdir()
    pack(raw, tmp_path / "archives/NYUD_MT.tgz")
    monkeypatch.setenv("PIPELINE_ARCHIVES", str(tmp_path / "archives"))
    nowhere = replace(nyud.NYUD.archive, sources=())
    with pytest.raises(DataError, match="bytes instead of 4215751725"):
        fetch(nowhere, tmp_path / "raw")
