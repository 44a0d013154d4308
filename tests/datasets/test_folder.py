"""A person's own data: dataset.yaml, every coding that is allowed, and what is said when something is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.core.names import DATASET_TASKS
from pipeline.data.sample import Sample, decode_normals
from pipeline.data.store import Store
from pipeline.datasets import folder, get_dataset
from pipeline.datasets.preparation import prepare
from pipeline.datasets.rooms.dataset import ROOMS, render_frame
from pipeline.params.schema import Data
from tests.support.layout_files import SIZE, codes, depth, edge, normals, photo, save, save_palette, write_lists
from tests.support.own_data import RAW, describe, label, make_own, refused

TASKS = DATASET_TASKS["folder"]
NAMES = [f"class {i}" for i in range(8)]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_own(tmp_path, monkeypatch)


def write_room(own: Path, name: str, sample: Sample) -> None:
    """A rendered frame in the plainest coding: npy where there is a choice, 255 for pixels without a class."""
    save(own / f"images/{name}.png", sample.image)
    labels = sample.labels
    for task, place in (("semseg", "segmentation"), ("human_parts", "human_parts")):
        save(own / f"{place}/{name}.png", np.where(labels[task].valid, labels[task].value, np.uint8(255)))
    save(own / f"sal/{name}.png", labels["sal"].value)
    save(own / f"edge/{name}.npy", labels["edge"].value)
    save(own / f"depth/{name}.npy", labels["depth"].value * labels["depth"].valid)
    save(own / f"normals/{name}.npy", labels["normals"].value * labels["normals"].valid[..., None])


def test_all_six_tasks_from_folder_to_store(own: Path) -> None:
    """Rendered rooms, written as own data, come back pixel by pixel, under the names that dataset.yaml gives."""
    classes = {task: list(names) for task, names in ROOMS.classes.items()}
    params = describe(own, TASKS, classes=classes, ignore={"semseg": 255, "human_parts": 255}, edge_max_dist=0.011)
    frames = {split: render_frame(0, split, 1, (48, 64))[0] for split in ("train", "val")}
    for (split, frame), name in zip(frames.items(), ("room 1", "room.2"), strict=True):
        write_room(own, name, frame)
        write_lists(own, **{split: [name]})
    before = {path: path.stat().st_mtime_ns for path in sorted(own.rglob("*"))}

    paths.write_json(Path("raw/source.json"), {"generated": True})
    info = prepare(Path("raw"), Path("prepared"), params, workers=1)
    assert info.dataset == "kitchens" and info.edge_max_dist == 0.011 and not info.published
    assert info.classes == ROOMS.classes and info.tasks == TASKS and info.splits == {"train": 1, "val": 1}
    for split, frame in frames.items():
        sample = Store(Path("prepared") / split, TASKS)[0]
        np.testing.assert_array_equal(sample.image, frame.image)
        for task in TASKS:
            got, expected = sample.labels[task], frame.labels[task]
            np.testing.assert_array_equal(got.valid, expected.valid, err_msg=task)
            np.testing.assert_allclose(got.value[got.valid], expected.value[got.valid], atol=1e-6, err_msg=task)
    assert {path: path.stat().st_mtime_ns for path in sorted(own.rglob("*"))} == before, "own data is only read"


def test_the_registry_holds_it_and_resolve_fills_it_in(own: Path) -> None:
    dataset = get_dataset("folder")
    assert dataset is folder.FOLDER and dataset.tasks == DATASET_TASKS["folder"] and dataset.archive is None
    params = describe(own, ("semseg", "depth"), classes={"semseg": NAMES})
    resolved = dataset.resolve(RAW, params)
    assert (resolved.name, resolved.tasks, resolved.edge_max_dist) == ("kitchens", ("semseg", "depth"), 0.0075)
    assert resolved.classes == {"semseg": tuple(NAMES)} and resolved.published is None
    assert resolved.read is folder.read and resolved.splits(RAW, params) == {"train": ["a"], "val": ["b"]}


def test_lists_and_folder_may_lie_elsewhere(own: Path) -> None:
    moved = own.rename("elsewhere")
    save(moved / "lists/t.txt", b"b\n")
    describe(moved, ("edge",), splits={"train": "lists/t.txt"})
    assert folder.splits(RAW, Data(dataset="folder", tasks=("edge",), folder="elsewhere")) == {
        "train": ["b"],
        "val": ["b"],
    }


# -- codings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [save, save_palette])
def test_classes_from_0_without_a_code_to_ignore(own: Path, write) -> None:
    write(own / "segmentation/a.png", codes(7))
    read = label(own, "semseg", classes={"semseg": NAMES})
    np.testing.assert_array_equal(read.value, codes(7))
    assert read.valid.all()


def test_classes_from_1_where_0_is_ignored(own: Path) -> None:
    save(own / "segmentation/a.png", codes(8))
    read = label(own, "semseg", classes={"semseg": NAMES}, ignore={"semseg": 0})
    np.testing.assert_array_equal(read.valid, codes(8) != 0)
    np.testing.assert_array_equal(read.value[read.valid], codes(8)[read.valid] - 1)


@pytest.mark.parametrize("code", [8, 255])
def test_classes_from_0_where_a_code_beyond_them_is_ignored(own: Path, code: int) -> None:
    stored = codes(8)
    stored[stored == 8] = code
    save(own / "human_parts/a.png", stored)
    read = label(own, "human_parts", classes={"human_parts": NAMES}, ignore={"human_parts": code})
    np.testing.assert_array_equal(read.valid, codes(8) != 8)
    np.testing.assert_array_equal(read.value[read.valid], codes(8)[read.valid])


def test_a_code_without_a_class_is_refused(own: Path) -> None:
    save(own / "segmentation/a.png", codes(8))
    message = "segmentation/a.png holds 8, but its 8 classes are coded 0 to 7"
    refused(own, "semseg", message, classes={"semseg": NAMES})
    refused(own, "semseg", message, classes={"semseg": NAMES}, ignore={"semseg": 255})


def test_saliency_is_a_mask_or_more_than_half_of_its_levels(own: Path) -> None:
    mask = codes(1)
    for on in (1, 255):
        save(own / "sal/a.png", mask * np.uint8(on))
        np.testing.assert_array_equal(label(own, "sal").value, mask)
    levels = codes(255)
    save(own / "sal/a.png", levels)
    read = label(own, "sal", sal_max=255)
    np.testing.assert_array_equal(read.value, levels / 255 > 0.5)
    assert read.valid.all()
    save(own / "sal/a.png", np.zeros(SIZE, np.uint8))
    assert not label(own, "sal").value.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a.npy", edge()),
        ("a.npy", edge() > 0),
        ("a.npy", edge().astype(np.int64)),
        ("a.png", edge().astype(np.uint8)),
        ("a.png", edge().astype(np.uint8) * np.uint8(255)),
    ],
)
def test_edges(own: Path, name: str, value: np.ndarray) -> None:
    save(own / "edge" / name, value)
    read = label(own, "edge")
    np.testing.assert_array_equal(read.value, edge())
    assert read.valid.all()


def test_edges_without_an_edge(own: Path) -> None:
    save(own / "edge/a.png", np.zeros(SIZE, np.uint8))
    assert not label(own, "edge").value.any()


@pytest.mark.parametrize("scale", [1000, 256.0, 5000])
def test_depth_of_16_bits_is_divided_by_its_scale(own: Path, scale: float) -> None:
    units = np.rint(depth() * scale).astype(np.uint16)
    save(own / "depth/a.png", units)
    read = label(own, "depth", depth_scale=scale)
    np.testing.assert_array_equal(read.valid, units > 0)
    np.testing.assert_allclose(read.value, units / scale, rtol=1e-6)


def test_depth_of_16_bits_needs_a_scale_and_the_right_one(own: Path) -> None:
    save(own / "depth/a.png", np.rint(depth() * 1000).astype(np.uint16))
    refused(own, "depth", r"depth/a.png: say in depth_scale how many .* \(1000: millimetres\)")
    refused(own, "depth", "depth/a.png has a median depth of .* looks like millimetres", depth_scale=1)
    save(own / "depth/a.png", codes())
    refused(own, "depth", "depth/a.png is a L image, expected 16 bits", depth_scale=1000)


AXES = [(("x", "y", "z"), (1, 1, 1)), (("x", "-y", "-z"), (1, -1, -1)), (("-x", "y", "z"), (-1, 1, 1))]


@pytest.mark.parametrize(("axes", "signs"), AXES)
def test_normals_as_arrays(own: Path, axes: tuple[str, ...], signs: tuple[int, ...]) -> None:
    save(own / "normals/a.npy", normals() * np.float32(signs))
    read = label(own, "normals", normals_axes=list(axes))
    np.testing.assert_array_equal(read.valid, normals().any(axis=-1))
    np.testing.assert_allclose(read.value, normals(), atol=1e-6)


@pytest.mark.parametrize(("axes", "signs"), AXES)
def test_normals_as_8_bits_stay_8_bits(own: Path, axes: tuple[str, ...], signs: tuple[int, ...]) -> None:
    vectors = normals()
    real = vectors.any(axis=-1)
    coded = np.rint((vectors * signs + 1) * 127.5).astype(np.uint8)  # the hole is middle grey
    coded[0, :4], real[0, :4] = 0, False  # black is a hole too
    save(own / "normals/a.png", coded)
    read = label(own, "normals", normals_axes=list(axes))
    assert read.value.dtype == np.uint8
    np.testing.assert_array_equal(read.valid, real)
    cosine = (decode_normals(read.value) * vectors).sum(axis=-1)[real]
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.5


def test_axes_may_be_in_another_order(own: Path) -> None:
    """Stored as (up, towards, left): our x is minus the third, our y the first, our z the second."""
    x, y, z = np.moveaxis(normals(), -1, 0)
    save(own / "normals/a.npy", np.stack([y, z, -x], axis=-1))
    read = label(own, "normals", normals_axes=["-z", "x", "y"])
    np.testing.assert_allclose(read.value, normals(), atol=1e-6)


def test_normals_that_point_away_are_refused(own: Path) -> None:
    save(own / "normals/a.npy", normals() * np.float32([1, -1, -1]))
    refused(own, "normals", r"normals/a.npy .* point away .* normals_axes is \[x, y, z\]; .* it is \[x, -y, -z\]")
    save(own / "normals/a.png", np.rint((normals() + 1) * 127.5).astype(np.uint8))
    refused(own, "normals", "normals holds both a.npy and a.png; keep one")
    (own / "normals/a.npy").unlink()
    refused(own, "normals", "normals/a.png .* point away", normals_axes=["x", "-y", "-z"])


def test_coded_normals_must_be_unit_vectors(own: Path) -> None:
    save(own / "normals/a.png", np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    refused(own, "normals", "normals/a.png holds normals that are not unit vectors")


def test_photographs_may_be_png_but_not_turned_and_not_twice(own: Path) -> None:
    save(own / "edge/a.npy", edge())
    save(own / "images/a.png", photo())
    refused(own, "edge", "images holds both a.jpg and a.png; keep one")
    (own / "images/a.jpg").unlink()
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down: the size would not tell
    save(own / "images/a.png", photo(), exif=turned)
    refused(own, "edge", r"images/a.png is turned by its orientation tag \(EXIF 3\)")
    save(own / "images/a.png", photo())
    params = describe(own, ("edge",))
    np.testing.assert_array_equal(folder.read(RAW, "train", "a", params).image, photo())
    (own / "images/a.png").unlink()
    refused(own, "edge", r"images/a.jpg is missing \(.jpeg, .png would do as well\)")


def test_a_missing_label_says_what_else_would_do(own: Path) -> None:
    refused(own, "depth", r"depth/a.npy is missing \(.png would do as well\)")
    refused(own, "sal", r"sal/a.png is missing \(.npy would do as well\)")


# -- labels for some images only -----------------------------------------------------------------------------

FILES = {
    "semseg": (Path("segmentation/a.png"), codes(7)),
    "human_parts": (Path("human_parts/a.png"), codes(7)),
    "sal": (Path("sal/a.png"), codes(1)),
    "depth": (Path("depth/a.npy"), depth()),
    "normals": (Path("normals/a.npy"), normals()),
    "edge": (Path("edge/a.npy"), edge()),
}
CLASSES = {"semseg": NAMES, "human_parts": NAMES}


def of(task: str) -> dict[str, object]:
    return {"classes": {task: NAMES}} if task in CLASSES else {}


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_file_is_a_label_without_valid_pixels_where_labels_are_partial(own: Path, task: str) -> None:
    read = label(own, task, labels="partial", **of(task))
    assert read.valid.shape == SIZE and not read.valid.any()
    place, value = FILES[task]
    save(own / place, value)
    assert label(own, task, labels="partial", **of(task)).valid.any(), "a file that is there counts"


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_file_is_an_error_that_names_the_key_where_labels_are_complete(own: Path, task: str) -> None:
    for more in ({}, {"labels": "complete"}):
        told = f"{FILES[task][0].parent}/a.* is missing .*; if not every image .* dataset.yaml with labels: partial"
        refused(own, task, told, **more, **of(task))


def test_a_photograph_is_needed_in_any_case(own: Path) -> None:
    save(own / "edge/a.npy", edge())
    (own / "images/a.jpg").unlink()
    refused(own, "edge", r"images/a.jpg is missing \(.jpeg, .png would do as well\)$", labels="partial")


def test_a_broken_label_is_not_a_missing_one(own: Path) -> None:
    save(own / "depth/a.npy", depth() * 1000)
    refused(own, "depth", "depth/a.npy has a median depth of .* looks like millimetres", labels="partial")


def test_a_task_without_any_file_is_refused_by_name(own: Path) -> None:
    params = describe(own, ("depth", "edge"), labels="partial")
    save(own / "depth/b.npy", depth())
    save(own / "edges/a.npy", edge())
    save(own / "edge/c.npy", edge())  # of no photograph that is listed
    with pytest.raises(DataError, match=r"^edge: none of the 2 images has a label, as data/own/edge/<id>.npy \(.png"):
        folder.splits(RAW, params)
    assert folder.splits(RAW, Data(dataset="folder", tasks=("depth",))) == {"train": ["a"], "val": ["b"]}
    describe(own, ("depth", "edge"))
    folder.splits(RAW, params)  # complete: each missing file is named when it is read


@pytest.mark.parametrize("codings", ["vectors", "codes", "both"])
def test_missing_normals_go_with_either_coding(own: Path, codings: str) -> None:
    """Images in the order missing, labelled, missing, labelled; the last in the other coding where there are both."""
    ids = ["m0", "l0", "m1", "l1"]
    write_lists(own, train=ids)
    coded = np.rint((normals() + 1) * 127.5).astype(np.uint8)
    for name in ids:
        save(own / f"images/{name}.png", photo())
    for name, as_codes in (("l0", codings == "codes"), ("l1", codings != "vectors")):
        save(own / f"normals/{name}.{'png' if as_codes else 'npy'}", coded if as_codes else normals())
    paths.write_json(Path("raw/source.json"), {"generated": True})
    params = describe(own, ("normals",), labels="partial")
    prepare(Path("raw"), Path("prepared"), params, workers=1)
    store = Store(Path("prepared/train"), ("normals",))
    assert store.label_counts() == {"normals": 2} and store.labelled().ids == ["l0", "l1"]
    assert Store(Path("prepared/val"), ("normals",)).label_counts() == {"normals": 0}
    stored = paths.read_json(Path("prepared/train/index.json"))["fields"]["normals"]["dtype"]
    assert stored == ("|u1" if codings == "codes" else "<f4")
    for i, name in enumerate(ids):
        read = store.label("normals", i)
        assert read.value.shape == (*SIZE, 3) and np.isfinite(read.value).all()
        np.testing.assert_array_equal(read.valid, normals().any(axis=-1) & name.startswith("l"))
        np.testing.assert_allclose(read.value[read.valid], normals()[read.valid], atol=0.02)


def test_many_missing_labels_are_looked_for_in_one_look_at_the_folder(own: Path, monkeypatch) -> None:
    """And a label that comes later is found."""
    save(own / "edge/b.npy", edge())
    os.utime(own / "edge", (0, 0))  # a folder that nobody touches any more
    params = describe(own, ("edge",), labels="partial")
    looks: list[Path] = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: looks.append(self) or iterdir(self))
    for _ in range(5):
        assert not folder.read(RAW, "train", "a", params).labels["edge"].valid.any()
    assert len(looks) == 1
    save(own / "edge/a.npy", edge()).rename(own / "edge/a.nPy")
    assert folder.read(RAW, "train", "a", params).labels["edge"].valid.all()


def test_a_test_split_is_packed_where_it_is_listed(own: Path) -> None:
    write_lists(own, test=["c"])
    save(own / "images/c.jpg", photo())
    params = describe(own, ("edge",), splits={"test": "gt_sets/test.txt"})
    assert folder.splits(RAW, params) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    for name in "abc":
        save(own / f"edge/{name}.npy", edge())
    paths.write_json(Path("raw/source.json"), {"generated": True})
    info = prepare(Path("raw"), Path("prepared"), params, workers=1)
    assert info.splits == {"train": 1, "val": 1, "test": 1}
    assert Store(Path("prepared/test"), ("edge",)).ids == ["c"]
