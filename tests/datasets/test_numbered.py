"""MTAN's layout, as LibMTL reads it: NYUv2 of 288x384 and Cityscapes of 128x256, against values worked out by hand."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import stages.download
import stages.prepare
from pipeline.core.errors import DataError
from pipeline.data.store import Store
from pipeline.datasets import get_dataset
from pipeline.params.schema import Data
from stages._entry import run_stage
from tests.support.layout_files import save
from tests.support.numbered_archive import CLASSES, SIZES, frame, numbered_files, write_zip
from tests.support.nyud_archive import npy

DATASETS = tuple(SIZES)


def params(dataset: str, *tasks: str) -> Data:
    return Data(dataset=dataset, tasks=tasks or get_dataset(dataset).tasks)


def write(folder: Path, dataset: str, **changed: np.ndarray) -> Path:
    for name, array in (frame(dataset, 3) | changed).items():
        save(folder / f"train/{name}/0.npy", array)
    return folder


def read(folder: Path, dataset: str, *tasks: str):
    return get_dataset(dataset).read(folder, "train", "train_0", params(dataset, *tasks))


def full(dataset: str, value: float, kind: type = np.float32) -> np.ndarray:
    return np.full(SIZES[dataset], value, kind)


# -- values by hand ------------------------------------------------------------------------------------------


def test_images_are_rounded_to_the_nearest_of_256_levels(tmp_path: Path) -> None:
    image = np.zeros((128, 256, 3), np.float32)
    image[0, :7, 0] = [0, 1, 0.5, 0.499, 0.1, 1 / 255, 0.0019]
    image[1, 0] = [0.2, 0.4, 0.6]
    got = read(write(tmp_path, "cityscapes_128", image=image), "cityscapes_128").image
    assert got.dtype == np.uint8 and got[0, :7, 0].tolist() == [0, 255, 128, 127, 26, 1, 0]  # 127.5 to even
    assert got[1, 0].tolist() == [51, 102, 153]
    np.testing.assert_array_less(np.abs(got / 255 - image), 1 / 510 + 1e-6)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int8])
@pytest.mark.parametrize("dataset", DATASETS)
def test_labels_of_every_type(tmp_path: Path, dataset: str, kind: type) -> None:
    label = full(dataset, -1, kind)
    label[0, : CLASSES[dataset]] = np.arange(CLASSES[dataset])
    got = read(write(tmp_path, dataset, label=label), dataset, "semseg").labels["semseg"]
    assert got.value.dtype == np.uint8 and int(got.valid.sum()) == CLASSES[dataset]
    assert got.value[got.valid].tolist() == list(range(CLASSES[dataset]))


def test_cityscapes_takes_the_folder_that_names_7_classes(tmp_path: Path) -> None:
    """In an archive with label_2, label_7 and label_19, label_7 is the one; in one with label alone, that."""
    seven, other = full("cityscapes_128", 6), full("cityscapes_128", 1)
    folder = write(tmp_path, "cityscapes_128", label=other, label_7=seven, label_2=other, label_19=other * 18)
    assert (read(folder, "cityscapes_128", "semseg").labels["semseg"].value == 6).all()
    shutil.rmtree(folder / "train/label_7")
    assert (read(folder, "cityscapes_128", "semseg").labels["semseg"].value == 1).all()


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("axis", [True, False])
def test_depth_is_metres_and_0_is_missing(tmp_path: Path, kind: type, axis: bool) -> None:
    depth = full("nyuv2_288", 2.5, kind)
    depth[0, :3] = [0, 0.75, 9.5]
    depth[1, 0] = 1e-60 if kind is np.float64 else 0  # nothing is left of it in float32: no measurement
    got = read(write(tmp_path, "nyuv2_288", depth=depth[..., None] if axis else depth), "nyuv2_288").labels["depth"]
    assert got.value.dtype == np.float32 and got.value[0, 1:4].tolist() == [0.75, 9.5, 2.5]
    assert not got.valid[0, 0] and not got.valid[1, 0] and got.valid.sum() == got.valid.size - 2


def test_disparity_is_taken_as_it_is(tmp_path: Path) -> None:
    disparity = full("cityscapes_128", 0.05)
    disparity[0, :3] = [0, 32257 / 65535, 1 / 65535]
    got = read(write(tmp_path, "cityscapes_128", depth=disparity[..., None]), "cityscapes_128").labels["disparity"]
    np.testing.assert_array_equal(got.value, disparity)
    assert not got.valid[0, 0] and got.valid.sum() == got.valid.size - 1


def test_normals_face_the_camera_and_0_is_missing(tmp_path: Path) -> None:
    """x right is the first component; where z points away all are turned by half about x."""
    normal = np.zeros((288, 384, 3), np.float64)
    normal[1:] = [0.6, 0, 0.8]
    got = read(write(tmp_path, "nyuv2_288", normal=normal), "nyuv2_288", "normals").labels["normals"]
    np.testing.assert_allclose(got.value[5, 5], [0.6, 0, 0.8], atol=1e-6)
    assert not got.valid[0].any() and got.valid[1:].all()
    away = normal * [1, -1, -1]
    got = read(write(tmp_path, "nyuv2_288", normal=away), "nyuv2_288", "normals").labels["normals"]
    np.testing.assert_allclose(got.value[5, 5], [0.6, 0, 0.8], atol=1e-6)


def test_ids_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("val", 2)):
        for i in range(count):
            save(tmp_path / f"{split}/image/{i}.npy", np.zeros(1))
    (tmp_path / "train/image/.DS_Store").write_bytes(b"")
    (tmp_path / "train/image/._0.npy").write_bytes(b"")
    ids = get_dataset("nyuv2_288").splits(tmp_path, params("nyuv2_288"))
    assert ids == {"train": [f"train_{i}" for i in range(12)], "val": ["val_0", "val_1"]}
    (tmp_path / "train/image/7.npy").rename(tmp_path / "train/image/7 (1).npy")
    says = r"train/image holds 12 npy files, which must be 0.npy to 11.npy: 7.npy is missing, 7 \(1\).npy is too many"
    with pytest.raises(DataError, match=says):
        get_dataset("nyuv2_288").splits(tmp_path, params("nyuv2_288"))


# -- what is refused, through the stages ---------------------------------------------------------------------


def put(name: str, array: np.ndarray):
    return lambda files: files | {f"set/{name}": npy(array)}


def without(name: str):
    return lambda files: {key: value for key, value in files.items() if key != f"set/{name}"}


def cut(name: str):
    return lambda files: files | {f"set/{name}": files[f"set/{name}"][:500]}


N, C = DATASETS
BROKEN = {
    "image of 0..255": (N, put("train/image/1.npy", frame(N, 0)["image"] * 255), "image/1.npy holds values .* 0 to 1"),
    "image in bytes": (N, put("train/image/1.npy", np.zeros((288, 384, 3), np.uint8)), "image/1.npy holds uint8"),
    "image with NaN": (C, put("val/image/1.npy", np.full((128, 256, 3), np.nan)), "val_1: image/1.npy .* from nan"),
    "image of another size": (C, put("val/image/0.npy", np.zeros((256, 512, 3))),
                              r"shape \(256, 512, 3\), in this dataset it is \(128, 256, 3\)"),
    "channels first": (N, put("train/image/0.npy", np.zeros((3, 288, 384))), r"shape \(3, 288, 384\)"),
    "class 13": (N, put("train/label/2.npy", full(N, 13)), "label/2.npy holds 13, but its 13 classes are coded 0"),
    "class -2": (C, put("train/label/2.npy", full(C, -2)), "label/2.npy holds -2, but its 7 classes"),
    "-1 in bytes": (C, put("train/label/2.npy", full(C, 255, np.uint8)), "holds 255, but its 7 classes"),
    "half a class": (C, put("train/label/2.npy", full(C, 1.5)), "label/2.npy holds 1.5, expected whole numbers"),
    "class NaN": (C, put("train/label/2.npy", full(C, np.nan)), "label/2.npy holds nan, expected whole numbers"),
    "class inf": (C, put("train/label/2.npy", full(C, np.inf)), "label/2.npy holds inf, expected whole numbers"),
    "negative depth": (N, put("train/depth/0.npy", full(N, -1)), "depth/0.npy holds depth that is negative"),
    "depth in millimetres": (N, put("train/depth/0.npy", full(N, 2310)), "looks like millimetres"),
    "depth in whole numbers": (N, put("train/depth/0.npy", full(N, 2, np.uint16)), "holds uint16, expected metres"),
    "depth of three axes": (N, put("train/depth/0.npy", np.ones((288, 384, 3))), r"it is \(288, 384, 1\)"),
    "disparity in codes": (C, put("train/depth/0.npy", full(C, 32257)), "depth/0.npy holds values from 32257 to 32257"),
    "disparity of -1": (C, put("train/depth/0.npy", full(C, -1)), "depth/0.npy holds values from -1 to -1"),
    "disparity NaN": (C, put("train/depth/0.npy", full(C, np.nan)), "depth/0.npy holds values from nan"),
    "normals in bytes": (N, put("train/normal/0.npy", np.full((288, 384, 3), 200.0)), "normal/0.npy .*not unit"),
    "missing label": (N, without("train/label/3.npy"), "train_3: label/3.npy is missing"),
    "missing number": (N, without("val/image/0.npy"), "another archive: no val/image/0.npy inside"),
    "missing image": (N, without("train/image/1.npy"), "holds 3 npy files.* 1.npy is missing, 3.npy is too many"),
    "no normals": (N, lambda files: {k: v for k, v in files.items() if "normal" not in k},
                   "another archive: no train/normal/0.npy"),
    "truncated": (C, cut("train/depth/2.npy"), "train_2: depth/2.npy can't be read"),
    "pickled": (C, put("train/depth/2.npy", np.array([{"a": 1}], object)), "depth/2.npy can't be read"),
}  # fmt: skip


@pytest.fixture
def stage(in_tmp, root, capsys, monkeypatch):
    """Run download and prepare of a profile on these files, as DVC does; returns exit codes and what was printed."""
    monkeypatch.delenv("PIPELINE_ARCHIVES", raising=False)
    shutil.copy(root / "dvc.yaml", in_tmp)

    def call(dataset, files=None, archive: str | None = "own.zip", kind: int = zipfile.ZIP_DEFLATED):
        tree = yaml.safe_load((root / f"profiles/{dataset}.yaml").read_text())
        tree["data"]["archive"] = archive
        if files is not None:
            write_zip(files, in_tmp / "own.zip", kind)
        (in_tmp / "params.yaml").write_text(yaml.safe_dump(tree))
        codes = []
        for main in (stages.download.main, stages.prepare.main):
            with pytest.raises(SystemExit) as ended:
                run_stage(main, argv=[])
            codes.append(ended.value.code)
        return codes, capsys.readouterr()

    return call


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.slow
def test_one_clear_message(stage, in_tmp: Path, kind: str) -> None:
    dataset, change, message = BROKEN[kind]
    # Stored: to deflate takes longer than all that is tested.
    codes, printed = stage(dataset, change(numbered_files(dataset)), kind=zipfile.ZIP_STORED)
    assert codes == ([2, 2] if "another archive" in message else [0, 2])
    assert re.search(message, printed.err, re.DOTALL), printed.err
    assert "Traceback" not in printed.err and len(printed.err) < 1500
    assert not (in_tmp / "data/prepared").exists()


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.slow
def test_a_folder_is_packed_as_its_archive_is(stage, in_tmp: Path, dataset: str) -> None:
    files = numbered_files(dataset)
    codes, printed = stage(dataset, files)
    assert codes == [0, 0], printed.err
    digest = printed.out.split()[-1]
    for name, content in files.items():
        (in_tmp / name).parent.mkdir(parents=True, exist_ok=True)
        (in_tmp / name).write_bytes(content)
    codes, printed = stage(dataset, archive="set")
    assert codes == [0, 0] and printed.out.split()[-1] == digest
    store = Store(in_tmp / "data/prepared/val", get_dataset(dataset).tasks)
    semseg, written = store.label("semseg", 1), frame(dataset, 101)["label"]
    np.testing.assert_array_equal(np.where(semseg.valid, semseg.value.astype(int), -1), written)


@pytest.mark.parametrize("dataset", DATASETS)
def test_without_an_archive_the_message_says_where_its_authors_keep_it(stage, dataset: str) -> None:
    codes, printed = stage(dataset, archive=None)
    name = {"nyuv2_288": "nyuv2.zip", "cityscapes_128": "cityscapes2.zip"}[dataset]
    assert codes == [2, 2]
    assert f"{name} could not be fetched. Tried, in this order:\n  - PIPELINE_ARCHIVES: not set\n" in printed.err
    assert "a folder with its files, in data.archive. Its authors keep it at a Dropbox folder that" in printed.err


def test_the_published_counts_are_asked_of_what_passes_for_the_published_archive(stage, in_tmp, monkeypatch) -> None:
    """A folder called as the unpacked archive is, in the folder of archives; nothing but its counts can be checked."""
    for name, content in numbered_files("cityscapes_128").items():
        path = in_tmp / "archives/cityscapes2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setenv("PIPELINE_ARCHIVES", "archives")
    codes, printed = stage("cityscapes_128", archive=None)
    assert codes == [0, 2]
    assert "cityscapes_128 lists 4 train (published: 2975), 2 val (published: 500)" in printed.err
