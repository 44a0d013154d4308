"""Depth, normals and names that can be misread: values come out as written, or one line says what settles it.

PNGs are written by the specification (`own_data.png`), so that no library's idea of them is on both sides.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.data.sample import decode_normals
from pipeline.data.store import Store
from pipeline.datasets import folder
from pipeline.datasets.preparation import prepare
from tests.support.layout_files import SIZE, depth, edge, normals, photo, save, write_lists
from tests.support.own_data import RAW, describe, label, make_own, png, refused


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_own(tmp_path, monkeypatch)


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
    with pytest.raises(DataError, match=r"gt_sets/train.txt names 1 ids twice, the first: é"):
        folder.splits(RAW, describe(own, ("edge",)))
