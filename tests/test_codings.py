"""Label files that can be misread: the values come out as written, or one line names the file and what settles it.

PNGs are written by the specification (`own_data.png`), so that no library's idea of them is on both sides.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from pipeline import paths
from pipeline.datasets import folder
from pipeline.datasets.preparation import prepare
from pipeline.datasets.sample import decode_normals
from pipeline.datasets.store import Store
from pipeline.errors import DataError
from tests.layout_files import SIZE, codes, depth, edge, normals, photo, save, write_lists
from tests.own_data import RAW, describe, greys, label, make_own, png, refused

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
    with pytest.raises(DataError, match=rf"segmentation/{TWO_WAYS}.*holds|it holds {most}, .* grey 255 of 255"):
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


# -- depth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (1, *SIZE)])
def test_depth_may_have_an_axis_for_its_channel(own: Path, shape: tuple[int, ...]) -> None:
    save(own / "depth/a.npy", depth().reshape(shape))
    np.testing.assert_array_equal(label(own, "depth").value, depth())


def test_65535_in_16_bits_is_no_reading(own: Path) -> None:
    units = np.rint(depth() * 1000).astype(np.uint16)
    units[:5] = 65535
    save(own / "depth/a.png", units)
    told = r"depth/a.png holds 65535, .* at 160 pixels: .* ignore: {depth: 65535}"
    refused(own, "depth", told, depth_scale=1000)
    refused(own, "depth", told, depth_scale=1000, max_depth=90)
    read = label(own, "depth", depth_scale=1000, ignore={"depth": 65535})
    np.testing.assert_array_equal(read.valid, (units > 0) & (units < 65535))
    np.testing.assert_allclose(read.value[read.valid], units[read.valid] / 1000, rtol=1e-6)
    np.testing.assert_array_equal(label(own, "depth", depth_scale=1000, max_depth=20).valid, read.valid)
    both = label(own, "depth", depth_scale=1000, ignore={"depth": [65535, int(units[20, 20])]})
    np.testing.assert_array_equal(both.valid, read.valid & (units != units[20, 20]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("code", [1e10, 655.35, np.inf, np.nan, -1.0, -np.inf])
def test_codes_for_no_reading_in_arrays(own: Path, dtype: type, code: float) -> None:
    stored = depth().astype(dtype)
    with np.errstate(over="ignore"):
        stored[:5] = code
    save(own / "depth/a.npy", stored)
    refused(own, "depth", "depth/a.npy holds depth .*ignore.depth")
    read = label(own, "depth", ignore={"depth": code})
    expected = depth() > 0
    expected[:5] = False
    np.testing.assert_array_equal(read.valid, expected)
    np.testing.assert_array_equal(read.value[expected], stored[expected].astype(np.float32))
    if code > 100:
        np.testing.assert_array_equal(label(own, "depth", max_depth=80).valid, expected)


def test_a_street_needs_max_depth_and_a_whole_sky_is_no_other_unit(own: Path) -> None:
    stored = depth() * 30  # 21 to 297 m
    save(own / "depth/a.npy", stored)
    refused(own, "depth", "depth/a.npy has a median depth of 1.. m; that looks like millimetres")
    np.testing.assert_array_equal(label(own, "depth", max_depth=300).valid, stored > 0)
    np.testing.assert_array_equal(label(own, "depth", max_depth=200).valid, (stored > 0) & (stored <= 200))
    sky = np.where(np.arange(SIZE[0])[:, None] < 20, np.float32(1e10), depth())
    save(own / "depth/a.npy", sky)
    np.testing.assert_array_equal(label(own, "depth", max_depth=80).valid, (sky > 0) & (sky < 80))
    save(own / "depth/a.npy", depth() * 1000)
    refused(own, "depth", r"depth/a.npy: 100 % .* beyond max_depth \(80 m\), .* looks like millimetres", max_depth=80)


def test_depth_that_32_bits_cannot_hold_is_refused(own: Path) -> None:
    stored = depth().astype(np.float64)
    stored[0, 0] = 1e-50
    save(own / "depth/a.npy", stored)
    refused(own, "depth", "depth/a.npy holds depth of 1e-50 m, which is 0 in 32 bits")
    stored[0, 0] = 1e300
    save(own / "depth/a.npy", stored)
    refused(own, "depth", r"depth/a.npy holds depth of 1e\+300 m, a code or a distance")
    assert not label(own, "depth", max_depth=80).valid[0, 0]
    assert label(own, "depth", max_depth=80).valid.sum() == (depth() > 0).sum() - 1


# -- normals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [-1.0, 1.0, 3.0, 0.2])
def test_codes_for_no_normal_are_not_made_unit(own: Path, code: float) -> None:
    real = normals().any(axis=-1)
    stored = normals()
    for rows in (4, 12):
        stored[:rows], real[:rows] = code, False
        save(own / "normals/a.npy", stored)
        if rows == 12:  # half of the image is another coding, not a few pixels that are off
            refused(own, "normals", r"normals/a.npy .* not unit vectors: .*\) occurs 384 times: .* ignore.normals")
        read = label(own, "normals", **({"ignore": {"normals": code}} if rows == 12 else {}))
        np.testing.assert_array_equal(read.valid, real)
        np.testing.assert_allclose(read.value[real], normals()[real], atol=1e-6)


@pytest.mark.parametrize(("rows", "more"), [(4, {}), (12, {"ignore": {"normals": 255}})])
def test_white_in_a_png_is_no_normal(own: Path, rows: int, more: dict) -> None:
    coded = np.rint((normals() + 1) * 127.5).astype(np.uint8)
    coded[:rows] = 255
    save(own / "normals/a.png", png(8, 2, coded))
    if more:
        refused(own, "normals", r"normals/a.png .* not unit vectors: .* \(1, 1, 1\) occurs 384 times")
    read = label(own, "normals", **more)
    real = normals().any(axis=-1)
    real[:rows] = False
    np.testing.assert_array_equal(read.valid, real)


def test_swapped_channels_and_axes_of_the_world_are_refused_where_they_show(own: Path) -> None:
    tilt = np.radians(np.linspace(-80, 80, SIZE[1]))  # a column in front of the camera: x from left to right
    column = np.stack([np.sin(tilt), 0 * tilt, np.cos(tilt)], axis=-1)
    stored = np.broadcast_to(column, (*SIZE, 3)).astype(np.float32)
    save(own / "normals/a.npy", stored)
    np.testing.assert_allclose(label(own, "normals").value, stored, atol=1e-6)
    save(own / "normals/a.npy", stored[..., ::-1])
    refused(
        own, "normals", r"normals/a.npy .* point away from the camera \(31 % .*, and \[z, y, x\] where red and blue"
    )
    np.testing.assert_allclose(label(own, "normals", normals_axes=["z", "y", "x"]).value, stored, atol=1e-6)


def test_normals_of_16_bits_in_rgb_are_refused_not_halved(own: Path) -> None:
    save(own / "normals/a.png", png(16, 2, np.rint((normals() + 1) * 32767.5).astype(np.uint16)))
    refused(own, "normals", "normals/a.png has 16 bits a channel, expected RGB of 8 bits; or store it as npy")


@pytest.mark.parametrize("order", [("p", "n", "q"), ("n", "p", "q"), ("p", "q", "n")])
def test_arrays_and_pngs_may_be_mixed(own: Path, order: tuple[str, ...]) -> None:
    """p and q are PNGs, n is an array; whatever comes first, each comes out of the store as it is alone."""
    vectors = normals()
    coded = np.rint((vectors + 1) * 127.5).astype(np.uint8)
    for name in order:
        save(own / f"images/{name}.png", photo())
    save(own / "normals/n.npy", vectors)
    save(own / "normals/p.png", png(8, 2, coded))
    save(own / "normals/q.png", png(8, 2, coded[:, ::-1]))
    save(own / "edge/n.npy", edge())
    for name in "pq":
        save(own / f"edge/{name}.png", png(1, 0, edge().astype(np.uint8)))
    write_lists(own, train=list(order), val=["b"])
    save(own / "normals/b.png", png(8, 2, coded))
    save(own / "edge/b.npy", edge())
    params = describe(own, ("normals", "edge"))
    paths.write_json(Path("raw/source.json"), {"generated": True})
    prepare(Path("raw"), Path("prepared"), params, workers=1)
    store = Store(Path("prepared/train"), ("normals", "edge"))
    expected = {"n": vectors, "p": decode_normals(coded), "q": decode_normals(coded[:, ::-1])}
    assert tuple(store.ids) == order
    for sample in store:
        read, real = sample.labels["normals"], vectors.any(axis=-1)
        real = real[:, ::-1] if sample.id == "q" else real
        np.testing.assert_array_equal(read.valid, real)
        np.testing.assert_allclose(read.value[real], expected[sample.id][real], atol=1e-6)
        np.testing.assert_array_equal(sample.labels["edge"].value, edge())
    assert sorted(path.name for path in Path("prepared/train").iterdir()) == [
        *("edge.bin", "edge.valid.bin", "image.bin", "index.json", "normals.bin", "normals.valid.bin")
    ]


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "mask"), [("JPG", "PNG"), ("JPEG", "NPY"), ("Jpg", "Png"), ("PNG", "npy")])
def test_endings_may_be_in_capitals(own: Path, image: str, mask: str) -> None:
    (own / "images/a.jpg").unlink()
    save(own / f"images/a.{image}", photo())
    for task in ("edge", "sal"):
        (own / task).mkdir()
        if mask.lower() == "npy":
            with (own / f"{task}/a.{mask}").open("wb") as file:
                np.save(file, edge())
        else:
            save(own / f"{task}/a.{mask}", edge().astype(np.uint8) * np.uint8(255))
        np.testing.assert_array_equal(label(own, task).value, edge())
    save(own / "images/a.jpeg", photo())
    refused(own, "edge", "images holds both a.* and a.*; keep one")


@pytest.mark.parametrize(("listed", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_may_be_in_another_normal_form(own: Path, listed: str, written: str) -> None:
    name = "Küche é.1"
    in_file = unicodedata.normalize(written, name)
    save(own / f"images/{in_file}.png", photo())
    save(own / f"edge/{in_file}.npy", edge())
    write_lists(own, train=[unicodedata.normalize(listed, name)])
    params = describe(own, ("edge",))
    (sample_id,) = folder.splits(RAW, params)["train"]
    sample = folder.read(RAW, "train", sample_id, params)
    assert sample.id == unicodedata.normalize("NFC", name)
    np.testing.assert_array_equal(sample.labels["edge"].value, edge())


def test_one_name_in_two_normal_forms_is_one_id(own: Path) -> None:
    both = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    write_lists(own, train=both)
    with pytest.raises(DataError, match="gt_sets/train.txt names 1 ids twice, the first: é"):
        folder.splits(RAW, describe(own, ("edge",)))
