"""CCP's reader on a small archive in the exact layout, served from a folder of archives."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from pipeline.core.errors import DataError
from pipeline.datasets import ccp, get_dataset
from pipeline.download.archive import extracted, fetch
from pipeline.params.schema import Data

# The names and their order in the published label_list.mat, written down here a second time.
LABEL_LIST = """
null accessories bag belt blazer blouse bodysuit boots bra bracelet cape cardigan clogs coat dress
earrings flats glasses gloves hair hat heels hoodie intimate jacket jeans jumper leggings loafers
necklace panties pants pumps purse ring romper sandals scarf shirt shoes shorts skin skirt sneakers
socks stockings suit sunglasses sweater sweatshirt swimwear t-shirt tie tights top vest wallet watch
wedges
"""
NAMES = LABEL_LIST.split()
PARAMS = Data(dataset="ccp", tasks=("human_parts", "sal", "edge"))
COUNT = 12
RED, GREEN = (200, 30, 40), (10, 180, 60)


def label_map() -> np.ndarray:
    """A person of blocks: hair, skin and coat above pants above shoes, with a watch on the skin."""
    labels = np.zeros((60, 40), dtype=np.uint8)
    for name, rows, columns in (
        ("hair", slice(4, 9), slice(15, 25)),
        ("skin", slice(9, 14), slice(15, 25)),
        ("coat", slice(14, 32), slice(10, 30)),
        ("pants", slice(32, 50), slice(12, 28)),
        ("shoes", slice(50, 56), slice(12, 28)),
        ("watch", slice(12, 13), slice(20, 22)),
    ):
        labels[rows, columns] = NAMES.index(name)
    return labels


def write_dataset(folder: Path, names: list[str] = NAMES) -> Path:
    (folder / "annotations/pixel-level").mkdir(parents=True)
    (folder / "photos").mkdir()
    scipy.io.savemat(folder / "label_list.mat", {"label_list": np.array([names], dtype=object)})
    photo = np.full((66, 44, 3), RED, dtype=np.uint8)
    photo[33:] = GREEN
    for number in range(1, COUNT + 1):
        cv2.imwrite(str(folder / f"photos/{number:04}.jpg"), photo[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        scipy.io.savemat(
            folder / f"annotations/pixel-level/{number:04}.mat",
            {"groundtruth": label_map()},
            do_compression=True,
        )
    cv2.imwrite(str(folder / "photos/0100.jpg"), photo)  # GitHub's archive holds unlabelled photographs too
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccp, "SAMPLES", COUNT)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "ccp")


def test_found_by_its_name() -> None:
    assert get_dataset("ccp") is ccp.CCP
    with pytest.raises(DataError, match="did you mean 'ccp'"):
        get_dataset("cpp")


def test_every_label_belongs_to_exactly_one_part() -> None:
    assert len(NAMES) == len(set(NAMES)) == 59
    assigned = [label for labels in ccp.PART_LABELS.values() for label in labels]
    assert sorted(assigned) == sorted(NAMES)
    table = ccp.part_table(NAMES)
    assert set(table) == set(range(8)) and table.dtype == np.uint8
    parts = {name: ccp.PARTS[index] for name, index in zip(NAMES, table, strict=True)}
    expected = {
        **{
            "null": "background",
            "hair": "hair",
            "skin": "skin",
            "coat": "upper clothes",
            "dress": "full body",
        },
        **{"jeans": "lower clothes", "heels": "footwear", "bag": "accessories", "romper": "full body"},
        **{"suit": "full body"},
    }
    assert {name: parts[name] for name in expected} == expected


def test_names_decide_not_their_order() -> None:
    order = ["null", *reversed(NAMES[1:])]
    assert dict(zip(order, ccp.part_table(order), strict=True)) == dict(zip(NAMES, ccp.part_table(NAMES), strict=True))


@pytest.mark.parametrize(
    ("names", "message"),
    [([*NAMES, "toga"], "names toga"), ([*NAMES[1:], "null"], "label 0 .*'accessories'")],
)
def test_unknown_label_list_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    folder = write_dataset(tmp_path / "other", names)
    with pytest.raises(DataError, match=message):
        ccp.read(folder, "train", "0001", PARAMS)


def test_splits_hold_out_every_fifth_id(raw: Path) -> None:
    splits = ccp.splits(raw, PARAMS)
    assert splits["val"] == ["0005", "0010"]
    assert len(splits["train"]) == 10 and not set(splits["train"]) & set(splits["val"])


def test_incomplete_dataset_is_refused(raw: Path) -> None:
    (raw / "annotations/pixel-level/0003.mat").unlink()
    with pytest.raises(DataError, match=r"11 label files .* instead of 12"):
        ccp.splits(raw, PARAMS)


def test_reads_from_the_archive(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through fetch and extracted, with the top folder that GitHub gives an archive of a commit."""
    folder = tmp_path / "archives"
    folder.mkdir()
    with tarfile.open(folder / "clothing-co-parsing.tar.gz", "w:gz") as tar:
        tar.add(raw, "clothing-co-parsing-fe34fb7")
    monkeypatch.setenv("PIPELINE_ARCHIVES", str(folder))
    fetch(ccp.CCP.archive, tmp_path / "raw")
    with extracted(tmp_path / "raw", tmp_path / "scratch") as source:
        splits = ccp.splits(source, PARAMS)
        sample = ccp.read(source, "val", splits["val"][0], PARAMS)
    assert sample.id == "0005"
    assert set(sample.labels) == set(ccp.CCP.tasks)


def test_photo_is_rgb_at_its_own_size(raw: Path) -> None:
    image = ccp.read(raw, "train", "0001", PARAMS).image
    assert image.shape == (66, 44, 3) and image.dtype == np.uint8
    assert np.abs(image[10, 20].astype(int) - RED).max() < 8
    assert np.abs(image[60, 20].astype(int) - GREEN).max() < 8


def test_labels(raw: Path) -> None:
    sample = ccp.read(raw, "train", "0001", PARAMS)
    for label in sample.labels.values():
        assert label.value.shape == label.valid.shape == (60, 40)
        assert label.value.dtype == np.uint8 and label.valid.dtype == bool and label.valid.all()
    parts, sal = sample.labels["human_parts"].value, sample.labels["sal"].value
    person = {(0, 0): 0, (5, 20): 1, (10, 20): 2, (20, 20): 3, (40, 20): 4, (52, 20): 6, (12, 20): 7}
    assert {place: parts[place] for place in person} == person
    np.testing.assert_array_equal(sal, parts != 0)


def neighbours_differ(labels: np.ndarray) -> Iterator[tuple[int, int]]:
    height, width = labels.shape
    for row in range(height):
        for column in range(width):
            right = column + 1 < width and labels[row, column] != labels[row, column + 1]
            below = row + 1 < height and labels[row, column] != labels[row + 1, column]
            if right or below:
                yield row, column


def test_edges_are_the_boundaries_of_all_labels(raw: Path) -> None:
    expected = np.zeros((60, 40), dtype=np.uint8)
    for place in neighbours_differ(label_map()):
        expected[place] = 1
    edge = ccp.read(raw, "train", "0001", PARAMS).labels["edge"].value
    np.testing.assert_array_equal(edge, expected)
    random = np.random.default_rng(0).integers(0, 3, (9, 13)).astype(np.uint8)
    assert set(zip(*np.nonzero(ccp.label_boundaries(random)), strict=True)) == set(neighbours_differ(random))


def test_reader_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(ccp.CCP)).read is ccp.read


def no_photo(raw: Path) -> None:
    (raw / "photos/0001.jpg").unlink()


def broken_labels(raw: Path) -> None:
    (raw / "annotations/pixel-level/0001.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 300)


def no_groundtruth(raw: Path) -> None:
    scipy.io.savemat(raw / "annotations/pixel-level/0001.mat", {"other": label_map()})


def real_labels(raw: Path) -> None:
    scipy.io.savemat(raw / "annotations/pixel-level/0001.mat", {"groundtruth": label_map() / 2})


def unnamed_label(raw: Path) -> None:
    scipy.io.savemat(raw / "annotations/pixel-level/0001.mat", {"groundtruth": label_map() + np.uint8(20)})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_photo, "photos/0001.jpg is missing"),
        (broken_labels, "0001.mat can't be read"),
        (no_groundtruth, "0001.mat holds no groundtruth"),
        (real_labels, "holds float64"),
        (unnamed_label, "0001 holds label 77, but label_list.mat names 0 to 58"),
    ],
)
def test_a_bad_sample_is_named(raw: Path, harm, message: str) -> None:
    harm(raw)
    with pytest.raises(DataError, match=message):
        ccp.read(raw, "train", "0001", PARAMS)
