"""PNGs and arrays of codes that can be misread: the codes come out as written, or one line says what settles it.

PNGs are written by the specification (`own_data.png`), so that no library's idea of them is on both sides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError
from tests.support.layout_files import SIZE, codes, save
from tests.support.own_data import greys, label, make_own, png, refused

NAMES = [f"class {i}" for i in range(8)]
FORTY = [f"class {i}" for i in range(40)]
MASK = codes(1)
VOID = np.where(np.arange(SIZE[1]) < 3, 255, MASK).astype(np.uint8)  # 255 in the first three columns
TWO_WAYS = "a.png can be read in two ways: .*grey PNG of 8 bits, or set png_codes"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_own(tmp_path, monkeypatch)


def semseg(own: Path, names: list[str] = NAMES, **more: object) -> np.ndarray:
    """The codes of photograph a, 255 where there is none."""
    read = label(own, "semseg", classes={"semseg": names}, **more)
    return np.where(read.valid, read.value, 255)


# -- PNG of codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "kind"), [(1, 0), (2, 0), (4, 0), (8, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_codes_of_every_depth_are_those_stored(own: Path, bits: int, kind: int) -> None:
    stored = codes(min(2**bits, 8) - 1)
    colours = [(200, i, 0) for i in range(2**bits)] if kind == 3 else None
    save(own / "segmentation/a.png", png(bits, kind, stored, colours))
    np.testing.assert_array_equal(semseg(own), stored)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_may_also_be_an_optimised_void(own: Path, bits: int) -> None:
    """Class 0 and void 255, as 8 bits, is what a viewer shows of 0 and the largest number of fewer bits."""
    most = 2**bits - 1
    save(own / "segmentation/a.png", png(bits, 0, MASK * np.uint8(most)))
    many = {"names": [f"class {i}" for i in range(16)], "ignore": {"semseg": 255}}
    with pytest.raises(
        DataError, match=f"segmentation/a.png .* two ways: it holds {most}, .* 255 of 255; .* png_codes"
    ):
        semseg(own, **many)
    np.testing.assert_array_equal(semseg(own, **many, png_codes={"semseg": "stored"}), MASK * most)
    np.testing.assert_array_equal(semseg(own, **many, png_codes={"semseg": "levels"}), MASK * 255)


def test_a_grey_palette_is_read_in_the_one_way_in_which_all_codes_are_known(own: Path) -> None:
    stored = codes(2)
    written = np.array([0, 3, 30])[stored]  # what an optimiser was given, if it was one
    path = own / "segmentation/a.png"
    save(path, png(2, 3, stored, greys(0, 127, 255)))  # levels for the eye: no classes
    np.testing.assert_array_equal(semseg(own), stored)
    save(path, png(8, 3, codes(7)[::-1], greys(*range(8))))  # the same in both ways
    np.testing.assert_array_equal(semseg(own), codes(7)[::-1])
    save(path, png(4, 3, stored + 9, greys(*[200] * 9, 0, 3, 7)))  # 9, 10 and 11 are no codes, 0, 3 and 7 are
    np.testing.assert_array_equal(semseg(own), np.array([0, 3, 7])[stored])
    save(path, png(2, 3, stored, greys(0, 3, 30)))
    with pytest.raises(DataError, match=f"segmentation/{TWO_WAYS}"):
        semseg(own, FORTY)
    np.testing.assert_array_equal(semseg(own, FORTY, png_codes={"semseg": "levels"}), written)
    np.testing.assert_array_equal(semseg(own, FORTY, png_codes={"semseg": "stored"}), stored)
    np.testing.assert_array_equal(semseg(own), stored)  # of 8 classes none is 30
    save(path, png(4, 3, stored + 9, greys(*[200] * 9, 0, 3, 8)))  # codes in neither way
    refused(own, "semseg", "segmentation/a.png holds 9, 10, 11, but its 8 classes", classes={"semseg": NAMES})


def test_a_palette_of_colours_has_no_levels(own: Path) -> None:
    save(own / "segmentation/a.png", png(8, 3, MASK, [(0, 0, 0), (128, 0, 0)]))
    np.testing.assert_array_equal(semseg(own), MASK)
    message = "segmentation/a.png has a palette of colours, which png_codes: {semseg: levels} can't read"
    refused(own, "semseg", message, classes={"semseg": NAMES}, png_codes={"semseg": "levels"})
    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128,) * 3]
    save(own / "segmentation/a.png", png(8, 3, MASK * 7, voc))  # 0 and 7 alone are grey: still a palette of colours
    np.testing.assert_array_equal(semseg(own), MASK * 7)


@pytest.mark.parametrize("task", ["sal", "edge"])
@pytest.mark.parametrize(
    ("values", "bits", "kind", "palette"),
    [
        (MASK, 1, 0, None),
        (MASK, 4, 0, None),
        (MASK * 15, 4, 0, None),
        (MASK * 3, 2, 0, None),
        (MASK, 1, 3, greys(0, 255)),
        (MASK, 1, 3, greys(0, 1)),
        (MASK, 8, 3, [(0, 0, 0), (128, 0, 0)]),
        (MASK * 2, 8, 3, greys(0, 9, 255)),
    ],
)
def test_masks(own: Path, task: str, values: np.ndarray, bits: int, kind: int, palette: list) -> None:
    save(own / f"{task}/a.png", png(bits, kind, values, palette))
    read = label(own, task)
    np.testing.assert_array_equal(read.value, MASK)
    assert read.valid.all()


@pytest.mark.parametrize("task", ["sal", "edge"])
@pytest.mark.parametrize("palette", [greys(255, 0), greys(1, 0), [(0, 0, 200), (0, 0, 0)]])
def test_a_mask_with_black_as_index_1_is_refused(own: Path, task: str, palette: list) -> None:
    save(own / f"{task}/a.png", png(8, 3, MASK, palette))
    refused(own, task, f"{task}/{TWO_WAYS}")
    np.testing.assert_array_equal(label(own, task, png_codes={task: "stored"}).value, MASK)
    if palette != [(0, 0, 200), (0, 0, 0)]:
        np.testing.assert_array_equal(label(own, task, png_codes={task: "levels"}).value, 1 - MASK)


@pytest.mark.parametrize("task", ["sal", "edge"])
def test_void_in_a_mask_is_refused_until_it_is_named(own: Path, task: str) -> None:
    save(own / f"{task}/a.png", VOID)
    refused(own, task, rf"{task}/a.png holds 1, 255, expected only 0 and 1, or 0 and 255: name .* ignore.{task}")
    read = label(own, task, ignore={task: 255})
    np.testing.assert_array_equal(read.valid, VOID != 255)
    np.testing.assert_array_equal(read.value[read.valid], VOID[VOID != 255])
    save(own / f"{task}/a.png", np.where(VOID == 255, 255, 0).astype(np.uint8))  # nothing but void and 0
    assert not label(own, task, ignore={task: 255}).value.any()


def test_saliency_has_one_coding_for_all_images(own: Path) -> None:
    percent, dark = np.where(MASK, 51, 50).astype(np.uint8), codes(1) + np.uint8(1)
    path = own / "sal/a.png"
    save(path, percent)
    refused(own, "sal", r"sal/a.png holds 50, 51, expected .* for levels set sal_max")
    np.testing.assert_array_equal(label(own, "sal", sal_max=100).value, MASK)
    assert not label(own, "sal", sal_max=255).value.any()
    save(path, dark)  # 1 and 2 of 255: nothing is salient
    refused(own, "sal", "for levels set sal_max")
    assert not label(own, "sal", sal_max=255).value.any()
    save(path, MASK)  # 0 and 1 of 255
    assert not label(own, "sal", sal_max=255).value.any()
    save(path, codes(255))
    refused(own, "sal", r"sal/a.png holds 101, expected 0 to 100, which is sal_max", sal_max=100)
    read = label(own, "sal", sal_max=255, ignore={"sal": [7, 255]})
    np.testing.assert_array_equal(read.valid, ~np.isin(codes(255), [7, 255]))
    np.testing.assert_array_equal(read.value, (codes(255) > 127) & read.valid)
    save(path, png(4, 0, codes(15)))  # levels of 4 bits: 8 of 15 is more than half
    np.testing.assert_array_equal(label(own, "sal", sal_max=255).value, codes(15) > 7)
    save(path, png(2, 3, codes(2), greys(255, 127, 128)))
    np.testing.assert_array_equal(label(own, "sal", sal_max=255).value, codes(2) != 1)


@pytest.mark.parametrize(("task", "place"), [("semseg", "segmentation"), ("sal", "sal"), ("edge", "edge")])
def test_a_jpeg_under_the_name_of_a_png_is_refused(own: Path, task: str, place: str) -> None:
    save(own / "x.jpg", MASK * np.uint8(255), quality=90)
    save(own / f"{place}/a.png", (own / "x.jpg").read_bytes())
    more = {"classes": {"semseg": NAMES}} if task == "semseg" else {}
    refused(own, task, f"{place}/a.png is a JPEG file by its contents, which has changed its values, expected", **more)


# -- arrays of codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i2", "float32", "float64"])
@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (1, *SIZE)])
def test_classes_as_arrays(own: Path, dtype: str, shape: tuple[int, ...]) -> None:
    save(own / "segmentation/a.npy", codes(7).astype(dtype).reshape(shape))
    np.testing.assert_array_equal(semseg(own), codes(7))
    save(own / "human_parts/a.npy", codes(7).astype(dtype).reshape(shape))
    np.testing.assert_array_equal(label(own, "human_parts", classes={"human_parts": NAMES}).value, codes(7))
    save(own / "sal/a.npy", MASK.astype(dtype).reshape(shape))
    np.testing.assert_array_equal(label(own, "sal").value, MASK)


def test_arrays_may_hold_codes_below_0_and_several_to_ignore(own: Path) -> None:
    stored = codes(9).astype(np.int16) - 1  # -1 to 8
    save(own / "segmentation/a.npy", stored)
    refused(own, "semseg", r"segmentation/a.npy holds -1, 8, but its 8 classes", classes={"semseg": NAMES})
    np.testing.assert_array_equal(semseg(own, ignore={"semseg": [-1, 8]}), np.where(stored % 9 == 8, 255, stored))
    shifted = codes(9)  # 0 and 9 ignored, 1 to 8 the classes
    save(own / "segmentation/a.npy", shifted)
    expected = np.where(shifted % 9 == 0, 255, shifted.astype(int) - 1)
    np.testing.assert_array_equal(semseg(own, ignore={"semseg": [0, 9]}), expected)


@pytest.mark.parametrize(("value", "told"), [(0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e30, r"1e\+30")])
def test_arrays_of_codes_must_be_whole_numbers(own: Path, value: float, told: str) -> None:
    stored = codes(7).astype(np.float64)
    stored[0, 0] = value
    save(own / "segmentation/a.npy", stored)
    refused(own, "semseg", f"segmentation/a.npy holds {told}, expected codes", classes={"semseg": NAMES})
