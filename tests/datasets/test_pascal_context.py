"""The reader of PASCAL_MT, on archives in its exact layout: every pixel is compared with what was written."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.morphology import thin

from pipeline.core.errors import DataError
from pipeline.core.names import DATASET_TASKS
from pipeline.data.sample import Label, Sample, decode_normals
from pipeline.data.store import check_sample
from pipeline.datasets import pascal_context as pascal
from pipeline.download.archive import extracted, fetch
from pipeline.params.schema import Data
from tests.support.nyud_archive import image
from tests.support.pascal_archive import (
    OBJECTS,
    PART,
    Entry,
    entries,
    entry_files,
    mat,
    palette_png,
    pascal_tgz,
    structs,
    write_pascal,
)

COUNTS = {"train": 8, "val": 3}
ENTRIES = {entry.id: entry for images in entries(**COUNTS).values() for entry in images}
PEOPLED = {entry.id for entry in ENTRIES.values() if entry.parts.any()}
FIRST = "2008_000000"
SIZE = (6, 8)
ONE = np.ones(SIZE, np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pascal(tmp_path_factory.mktemp("pascal"), **COUNTS)


@pytest.fixture
def small(tmp_path: Path):
    """Write one image of 6x8 pixels, changed as asked, and read it."""
    plain = Entry(
        id="2008_000001",
        photo=np.zeros((*SIZE, 3), np.uint8),
        semseg=ONE,
        in_voc=True,
        parts=0 * ONE,
        anno={"imname": "2008_000001", "objects": structs(OBJECTS, thing())},
        normals=np.full((*SIZE, 3), (128, 128, 255), np.uint8),
        sal=0 * ONE,
        label_map=ONE.astype(np.uint16) * 3,
    )

    def call(*tasks: str, files: dict[str, bytes | None] | None = None, **changes) -> Sample:
        """files: what takes the place of a file, or None: it is left out."""
        for name, content in (entry_files(replace(plain, **changes)) | (files or {})).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                (tmp_path / name).write_bytes(content)
        return read(tmp_path, plain.id, *tasks)

    return call


def read(folder: Path, sample_id: str, *tasks: str) -> Sample:
    return pascal.read(folder, "train", sample_id, Data(dataset="pascal_context", tasks=tasks))


def label(folder: Path, sample_id: str, task: str) -> Label:
    return read(folder, sample_id, task).labels[task]


def thing(index: int = 9, *parts: tuple[str, np.ndarray]) -> tuple:
    """A row of OBJECTS."""
    return ("something", np.uint8(index), ONE, structs(PART, *parts))


def anno(*objects: tuple) -> dict:
    return {"imname": "2008_000001", "objects": structs(OBJECTS, *objects)}


def at(*places: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    for place in places:
        mask[place] = 1
    return mask


# -- whole archives ------------------------------------------------------------------------------------------


def test_what_it_declares():
    assert pascal.PASCAL_CONTEXT.tasks == DATASET_TASKS["pascal_context"]
    assert len(pascal.CLASSES) == 21 and (pascal.CLASSES[0], pascal.CLASSES[15]) == ("background", "person")
    assert pascal.CLASSES[1:] == tuple(sorted(pascal.CLASSES[1:]))  # VOC's are in alphabetical order
    parts = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
    assert parts == pascal.PARTS == pascal.PASCAL_CONTEXT.classes["human_parts"]
    assert pascal.PASCAL_CONTEXT.published == {"train": 4998, "val": 5105}
    assert pickle.loads(pickle.dumps(pascal.PASCAL_CONTEXT)).read is pascal.read


def test_splits_keep_the_order_of_the_lists(raw):
    params = Data(dataset="pascal_context", tasks=("sal",))
    listed = {split: [entry.id for entry in images] for split, images in entries(**COUNTS).items()}
    assert pascal.splits(raw, params) == listed


def test_the_archive_shows_every_case():
    """Otherwise the tests below would compare less than they say."""
    assert 0 < len(PEOPLED) < len(ENTRIES)
    assert {entry.in_voc for entry in ENTRIES.values()} == {True, False}
    assert {entry.photo.shape for entry in ENTRIES.values()} == {(64, 96, 3), (96, 64, 3)}
    assert {255} < set(np.concatenate([np.unique(entry.semseg) for entry in ENTRIES.values()]).tolist())
    assert set(np.concatenate([np.unique(entry.parts) for entry in ENTRIES.values()]).tolist()) == set(range(7))


@pytest.mark.parametrize("sample_id", ENTRIES)
def test_all_tasks_of_an_image(raw, sample_id):
    sample, entry = read(raw, sample_id, *pascal.PASCAL_CONTEXT.tasks), ENTRIES[sample_id]
    check_sample(sample, pascal.PASCAL_CONTEXT.tasks)
    assert sample.id == sample_id
    assert np.abs(sample.image.astype(int) - entry.photo).mean() < 8  # JPEG
    labels, everywhere = sample.labels, np.ones(entry.sal.shape, bool)
    expected = {
        "semseg": (entry.semseg, entry.semseg < 255),
        "human_parts": (entry.parts, np.full(entry.sal.shape, sample_id in PEOPLED)),
        "sal": (entry.sal / 255 > 0.5, everywhere),
        "edge": (thinned_laplacian(entry.label_map), everywhere),
        "normals": (turned(entry.normals), np.isin(entry.label_map, pascal.NORMALS_IDS)),
    }
    for task, (value, valid) in expected.items():
        np.testing.assert_array_equal(labels[task].valid, valid, task)
        np.testing.assert_array_equal(labels[task].value[valid], value[valid], task)
    unit = (2.0 * entry.normals / 255 - 1) * (1, -1, 1)  # stored with y down
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    np.testing.assert_allclose(decode_normals(labels["normals"].value), unit, atol=1e-6)


def turned(codes: np.ndarray) -> np.ndarray:
    """8-bit normals with y the other way round."""
    return np.where([False, True, False], 255 - codes, codes)


def thinned_laplacian(label_map: np.ndarray) -> np.ndarray:
    height, width = label_map.shape
    result = np.zeros(label_map.shape, bool)
    for row in range(height):
        for column in range(width):
            # Beyond the border lies the mirror image about the border's own pixels.
            around = [(abs(row - 1), column), (row, abs(column - 1))]
            around += [(row + 1 if row + 1 < height else row - 1, column)]
            around += [(row, column + 1 if column + 1 < width else column - 1)]
            result[row, column] = sum(int(label_map[place]) for place in around) != 4 * int(label_map[row, column])
    return thin(result)


def test_reads_from_the_archive_and_writes_nothing(tmp_path, monkeypatch):
    (tmp_path / "archives").mkdir()
    pascal_tgz(tmp_path / "archives" / "PASCAL_MT.tgz", **COUNTS)
    monkeypatch.setenv("PIPELINE_ARCHIVES", str(tmp_path / "archives"))
    fetch(pascal.PASCAL_CONTEXT.archive, tmp_path / "raw")
    with extracted(tmp_path / "raw", tmp_path / "scratch") as source:
        params = Data(dataset="pascal_context", tasks=pascal.PASCAL_CONTEXT.tasks)
        before = listing(source)
        for split, ids in pascal.splits(source, params).items():
            for sample_id in ids:
                assert set(pascal.read(source, split, sample_id, params).labels) == set(params.tasks)
        assert listing(source) == before and len(before) > 6 * len(ENTRIES)


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): os.stat(path).st_mtime_ns for path in folder.rglob("*")}


NEEDED = {
    "semseg": "semseg",
    "human_parts": "human_parts",
    "sal": "sal_distill",
    "normals": "normals_distill pascal-context",
    "edge": "pascal-context",
}


@pytest.mark.parametrize("task", NEEDED)
def test_only_what_a_task_needs_is_opened(raw, tmp_path, task):
    for folder in ("JPEGImages", *NEEDED[task].split()):
        shutil.copytree(raw / folder, tmp_path / folder)
    assert set(read(tmp_path, FIRST, task).labels) == {task}


# -- rules, one by one ---------------------------------------------------------------------------------------


def test_voc_comes_before_pascal_context(small):
    other = {"semseg/pascal-context/2008_000001.png": image(".png", ONE * 7)}
    assert (small("semseg", semseg=ONE * 4, files=other).labels["semseg"].value == 4).all()


def test_void_is_not_valid(small):
    semseg = small("semseg", semseg=np.where(at((2, 3)), 255, 20).astype(np.uint8)).labels["semseg"]
    assert (semseg.valid == (at((2, 3)) == 0)).all() and (semseg.value[semseg.valid] == 20).all()


def test_saliency_is_above_one_half(small):
    levels = np.tile(np.uint8([0, 1, 126, 127, 128, 129, 254, 255]), (6, 1))
    sal = small("sal", sal=levels).labels["sal"]
    assert (sal.value == np.uint8([0, 0, 0, 0, 1, 1, 1, 1])).all() and sal.valid.all()


def test_normals_count_only_on_listed_ids(small):
    """Ids that are equal modulo 256 must not be taken for each other: 158 and 414 are listed, 427 is, 171 is not."""
    ids = np.tile(np.uint16([0, 2, 3, 158, 171, 414, 427, 459]), (6, 1))
    valid = small("normals", label_map=ids).labels["normals"].valid
    assert (valid == [False, False, True, True, False, True, True, False]).all()
    assert len(set(pascal.NORMALS_IDS)) == 170 and sum(pascal.NORMALS_IDS) == 37556


def test_a_normal_without_direction_does_not_count(small):
    codes = np.full((*SIZE, 3), (128, 128, 255), np.uint8)
    codes[1, 2], codes[3, 4], codes[5, 5] = (127, 128, 127), (120, 128, 128), (0, 0, 0)
    valid = small("normals", normals=codes).labels["normals"].valid
    assert (valid == (at((1, 2), (3, 4)) == 0)).all()


def test_edges_of_ids_above_255(small):
    ids = np.tile(np.uint16([171] * 4 + [427] * 4), (6, 1))  # the same in 8 bits
    edge = small("edge", label_map=ids).labels["edge"]
    np.testing.assert_array_equal(edge.value, thinned_laplacian(ids))
    assert edge.value.sum() == 5 and edge.valid.all()  # thinning takes one end of the line of six


def test_edges_have_the_gaps_of_the_laplacian(small):
    """Where 2 lies between 1 and 3 the steps cancel; without that gap the three columns would be thinned to one."""
    ids = np.tile(np.uint16([1, 1, 1, 2, 3, 3, 3, 3]), (6, 1))
    edge = small("edge", label_map=ids).labels["edge"].value
    assert (edge == np.uint8([0, 0, 1, 0, 1, 0, 0, 0])).all()


def test_label_map_may_be_of_any_type_of_number(small):
    ids = np.random.default_rng(2).integers(0, 3, SIZE)  # so few that steps often cancel, at the border too
    want = thinned_laplacian(ids)
    for dtype in (np.uint8, np.uint16, np.int32, np.float64):
        assert (small("edge", label_map=ids.astype(dtype)).labels["edge"].value == want).all()


ALL_PARTS = {
    1: "hair head lear rear leye reye lebrow rebrow mouth nose",
    2: "neck torso",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}
EVERY = [(name, code) for code, names in ALL_PARTS.items() for name in names.split()]


def test_every_part_has_its_class(small):
    places = [(i // 8, i % 8) for i in range(len(EVERY))]
    parts = [(name, at(place)) for (name, _), place in zip(EVERY, places, strict=True)]
    human = small("human_parts", anno=anno(thing(15, *parts))).labels["human_parts"]
    assert [human.value[place] for place in places] == [code for _, code in EVERY]
    assert human.value.astype(bool).sum() == len(EVERY) == 24 and human.valid.all()


def test_later_parts_overwrite_earlier_ones_and_later_people_earlier_people(small):
    first = thing(15, ("torso", at((1, 1), (1, 2), (1, 3))), ("luarm", at((1, 2))), ("lfoot", at((1, 3), (4, 4))))
    second = thing(15, ("nose", at((4, 4))))
    value = small("human_parts", anno=anno(first, thing(3), second)).labels["human_parts"].value
    assert (value == 2 * at((1, 1)) + 3 * at((1, 2)) + 6 * at((1, 3)) + 1 * at((4, 4))).all()


def test_other_objects_with_parts_are_background(small):
    dog, person = thing(12, ("head", ONE), ("tail", ONE)), thing(15, ("head", at((0, 0))))
    human = small("human_parts", anno=anno(person, dog)).labels["human_parts"]
    assert (human.value == at((0, 0))).all() and human.valid.all()


@pytest.mark.parametrize("objects", [(), (thing(9),), (thing(12, ("head", ONE)),), (thing(15),), (thing(15), thing(9))])
def test_without_a_person_whose_parts_are_marked_nothing_is_valid(small, objects):
    human = small("human_parts", anno=anno(*objects)).labels["human_parts"]
    assert not human.valid.any() and not human.value.any()


def test_a_person_without_parts_beside_one_with_parts_is_background(small):
    human = small("human_parts", anno=anno(thing(15), thing(15, ("neck", at((3, 3)))))).labels["human_parts"]
    assert (human.value == 2 * at((3, 3))).all() and human.valid.all()


def test_structs_of_any_shape_and_masks_of_any_type(small):
    part = {"part_name": "rhand", "mask": at((2, 2)) == 1}  # logical
    one = {"class": "person", "class_ind": 15.0, "mask": ONE, "parts": part}  # 1x1 structs, a double
    column = structs(OBJECTS, thing(9), thing(15, ("rhand", at((2, 2)) * 255.0))).T  # Nx1, a double
    for objects in (one, column):
        human = small("human_parts", anno={"objects": objects}).labels["human_parts"]
        assert (human.value == 4 * at((2, 2))).all() and human.valid.all()


# -- what can be wrong ---------------------------------------------------------------------------------------

ID = "2008_000001"
PARTS_FILE, MAP_FILE = f"human_parts/{ID}.mat", f"pascal-context/trainval/{ID}.mat"
VOC_FILE, SAL_FILE, NORMALS_FILE = f"semseg/VOC12/{ID}.png", f"sal_distill/{ID}.png", f"normals_distill/{ID}.png"
COLOUR = image(".png", np.zeros((*SIZE, 3), np.uint8))
SMALLER = np.ones((5, 8), np.uint8)


def parts_file(*objects: tuple) -> dict[str, bytes]:
    return {PARTS_FILE: mat(anno=anno(*objects))}


def map_file(array: np.ndarray) -> dict[str, bytes]:
    return {MAP_FILE: mat(LabelMap=array)}


WRONG = {
    "no photograph": ("sal", {f"JPEGImages/{ID}.jpg": None}, rf"JPEGImages/{ID}\.jpg is missing"),
    "no classes": ("semseg", {VOC_FILE: None}, rf"neither semseg/VOC12 nor semseg/pascal-context holds {ID}\.png"),
    "classes in colour": ("semseg", {VOC_FILE: COLOUR}, rf"VOC12/{ID}\.png is a RGB image"),
    "class 200": ("semseg", {VOC_FILE: palette_png(ONE * 200)}, rf"VOC12/{ID}\.png holds 200, .* 21 classes"),
    "class 21": ("semseg", {VOC_FILE: palette_png(ONE * 21)}, rf"VOC12/{ID}\.png holds 21, "),
    "classes of another size": ("semseg", {VOC_FILE: palette_png(SMALLER)}, rf"{ID}\.png is 5x8, its photograph 6x8"),
    "no saliency": ("sal", {SAL_FILE: None}, rf"sal_distill/{ID}\.png is missing"),
    "saliency in colour": ("sal", {SAL_FILE: COLOUR}, rf"sal_distill/{ID}\.png is a RGB image"),
    "saliency of another size": ("sal", {SAL_FILE: image(".png", SMALLER)}, rf"sal_distill/{ID}\.png is 5x8"),
    "no normals": ("normals", {NORMALS_FILE: None}, rf"normals_distill/{ID}\.png is missing"),
    "grey normals": ("normals", {NORMALS_FILE: image(".png", ONE)}, rf"normals_distill/{ID}\.png is a L image"),
    "no label map for normals": ("normals", {MAP_FILE: None}, rf"trainval/{ID}\.mat is missing"),
    "no label map for edges": ("edge", {MAP_FILE: None}, rf"trainval/{ID}\.mat is missing"),
    "damaged label map": ("edge", {MAP_FILE: mat(LabelMap=ONE)[:150]}, rf"trainval/{ID}\.mat can't be read"),
    "another variable": ("edge", {MAP_FILE: mat(labels=ONE)}, rf"trainval/{ID}\.mat holds no LabelMap"),
    "label map of another size": ("edge", map_file(SMALLER), r"its LabelMap is 5x8, the photograph 6x8"),
    "label map in colour": ("edge", map_file(np.zeros((*SIZE, 3))), r"its LabelMap is 6x8x3, the photograph 6x8"),
    "id 460": ("edge", map_file(ONE.astype(np.uint16) * 460), rf"trainval/{ID}\.mat .*not made of class ids, 0 to 459"),
    "half an id": ("edge", map_file(ONE * 2.5), r"not made of class ids"),
    "an id that is no number": ("edge", map_file(ONE * np.nan), r"not made of class ids"),
    "label map of cells": ("edge", map_file(np.full(SIZE, "x", object)), r"not made of class ids"),
    "no parts": ("human_parts", {PARTS_FILE: None}, rf"human_parts/{ID}\.mat is missing"),
    "damaged parts": ("human_parts", {PARTS_FILE: mat(anno=anno(thing()))[:-40]}, rf"parts/{ID}\.mat can't be read"),
    "no anno": ("human_parts", {PARTS_FILE: mat(other=ONE)}, rf"human_parts/{ID}\.mat holds no anno"),
    "anno of numbers": ("human_parts", {PARTS_FILE: mat(anno=ONE)}, r"holds an anno of shape \(6, 8\)"),
    "anno of one number": ("human_parts", {PARTS_FILE: mat(anno=1)}, r"holds anno that is not a struct"),
    "no objects": ("human_parts", {PARTS_FILE: mat(anno={"imname": "x"})}, r"a struct with imname but without objects"),
    "objects of numbers": ("human_parts", {PARTS_FILE: mat(anno={"objects": ONE})}, "objects that is not a struct"),
    "no class": ("human_parts", {PARTS_FILE: mat(anno={"objects": {"mask": ONE}})}, r"mask but without class_ind"),
    "two classes": ("human_parts", {PARTS_FILE: mat(anno={"objects": {"class_ind": [15, 15]}})}, "class_ind of .* one"),
    "unknown part": ("human_parts", parts_file(thing(15, ("tail", ONE))), rf"{ID}\.mat names 'tail' as a person's"),
    "part without name": ("human_parts", parts_file(thing(15, ("", ONE))), r"part_name of .* expected one value"),
    "name in a cell": ("human_parts", parts_file(thing(15, (np.array(["head"], object), ONE))), "part_name of object"),
    "mask of another size": ("human_parts", parts_file(thing(15, ("head", SMALLER))),
                             rf"human_parts/{ID}\.mat: the mask of head is 5x8, the photograph 6x8"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_one_clear_message(small, kind):
    task, files, message = WRONG[kind]
    with pytest.raises(DataError, match=message) as error:
        small(task, files=files)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("split", COUNTS)
def test_a_list_that_is_missing(raw, tmp_path, split):
    shutil.copytree(raw / "ImageSets", tmp_path / "ImageSets")
    (tmp_path / f"ImageSets/Context/{split}.txt").unlink()
    with pytest.raises(DataError, match=rf"Context/{split}\.txt is missing"):
        pascal.splits(tmp_path, Data(dataset="pascal_context", tasks=("sal",)))
