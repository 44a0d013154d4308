"""Reading files: what is stored comes back exactly, and what is not right is one clear error that names the file."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from pipeline.core.errors import DataError
from pipeline.datasets import files
from tests.support.layout_files import SIZE, codes, cut, depth, normals, photo, save, save_palette

ARRAY = normals()


def refused(call, *arguments, match: str, **options) -> None:
    with pytest.raises(DataError, match=match) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)


# -- photographs ---------------------------------------------------------------------------------------------


def test_a_photograph_is_as_opencv_decodes_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    path = save(tmp_path / "images/a.jpg", noise, quality=90)
    image = files.read_photo(path)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))


def test_other_photographs_become_rgb(tmp_path: Path) -> None:
    np.testing.assert_array_equal(files.read_photo(save(tmp_path / "a.png", photo())), photo())
    grey = files.read_photo(save(tmp_path / "g.png", codes()))
    np.testing.assert_array_equal(grey, np.repeat(codes()[..., None], 3, axis=2))
    alpha = np.dstack([photo(), codes()])
    np.testing.assert_array_equal(files.read_photo(save(tmp_path / "t.png", alpha)), photo())


def test_a_photograph_of_16_bits_is_refused_not_clipped(tmp_path: Path) -> None:
    path = save(tmp_path / "images/a.png", codes().astype(np.uint16) * 1000)
    refused(files.read_photo, path, match=r"images/a.png is a I;16 image, expected .* 8 bits")


def test_an_orientation_tag_is_not_obeyed_and_can_be_refused(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    path = save(tmp_path / "images/a.jpg", photo(), exif=tag)
    assert files.read_photo(path).shape == photo().shape
    refused(
        files.read_photo, path, only_upright=True, match=r"images/a.jpg is turned by its orientation tag \(EXIF 6\)"
    )
    tag[0x0112] = 1
    assert files.read_photo(save(path, photo(), exif=tag), only_upright=True).shape == photo().shape


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.8])
def test_a_cut_photograph_is_refused(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    cut(save(tmp_path / "images" / name, noise), share)
    refused(files.read_photo, tmp_path / "images" / name, match=f"images/{name} is not an image, or a damaged one")


def test_what_is_no_file_or_no_image_is_refused(tmp_path: Path) -> None:
    refused(files.read_photo, tmp_path / "images/a.jpg", match="^images/a.jpg is missing$")
    refused(files.read_photo, save(tmp_path / "images/b.jpg", b"<html>quota exceeded"), match="b.jpg is not an image")
    (tmp_path / "images/c.jpg").mkdir()
    refused(files.read_photo, tmp_path / "images/c.jpg", match="c.jpg is not an image")


# -- label images --------------------------------------------------------------------------------------------


def test_codes_are_as_stored_palette_or_grey(tmp_path: Path) -> None:
    for path in (save(tmp_path / "g.png", codes()), save_palette(tmp_path / "p.png", codes())):
        value = files.read_png(path, SIZE)
        assert value.dtype == np.uint8
        np.testing.assert_array_equal(value, codes())
    np.testing.assert_array_equal(files.read_png(save(tmp_path / "c.png", photo()), SIZE, channels=3), photo())
    wide = codes().astype(np.uint16) * 999
    value = files.read_png16(save(tmp_path / "w.png", wide), SIZE)
    assert value.dtype == np.uint16
    np.testing.assert_array_equal(value, wide)


@pytest.mark.parametrize(
    ("value", "name", "channels", "message"),
    [
        (photo(), "a.png", 1, r"segmentation/a.png is a RGB image, expected P or L \(8 bits\)"),
        (codes().astype(np.uint16), "a.png", 1, "is a I;16 image, expected P or L"),
        (codes(), "a.png", 3, "is a L image, expected RGB"),
        (codes()[:-1], "a.png", 1, "segmentation/a.png is 23x32, its photograph 24x32"),
        (codes().T.copy(), "a.png", 1, "is 32x24, its photograph 24x32"),
    ],
)
def test_another_kind_of_label_image_is_refused(tmp_path, value, name, channels, message) -> None:
    path = save(tmp_path / "segmentation" / name, value)
    refused(files.read_png, path, SIZE, channels, match=message)


def test_a_float_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "segmentation/a.png"
    path.parent.mkdir()
    Image.fromarray(depth()).save(path, format="TIFF")
    refused(files.read_png, path, match="segmentation/a.png is a TIFF file by its contents, expected PNG")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.8])
def test_a_cut_label_image_is_refused(tmp_path: Path, share: float) -> None:
    cut(save(tmp_path / "segmentation/a.png", codes()), share)
    refused(files.read_png, tmp_path / "segmentation/a.png", match="segmentation/a.png is not an image, or a damaged")


def test_damage_inside_a_png_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "segmentation/a.png", np.random.default_rng(0).integers(0, 40, SIZE, dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    refused(files.read_png, path, match="segmentation/a.png is not an image, or a damaged one")


def test_depth_of_8_bits_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "depth/a.png", codes())
    refused(files.read_png16, path, match="depth/a.png is a L image, expected 16 bits and one channel")


# -- arrays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "uint8", "int64", "bool"])
def test_an_array_is_as_stored(tmp_path: Path, dtype: str) -> None:
    value = (depth() * 10).astype(dtype)
    read = files.read_npy(save(tmp_path / "a.npy", value), SIZE)
    assert read.dtype == value.dtype
    np.testing.assert_array_equal(read, value)
    np.testing.assert_array_equal(files.read_npy(save(tmp_path / "n.npy", ARRAY), SIZE, channels=3), ARRAY)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.005, 0.5, 0.999])
def test_a_cut_array_is_refused(tmp_path: Path, share: float) -> None:
    cut(save(tmp_path / "normals/a.npy", ARRAY), share)
    refused(files.read_npy, tmp_path / "normals/a.npy", SIZE, 3, match="normals/a.npy can't be read")


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "depth/a.npy", depth()).read_bytes()
    for place in range(128):  # the whole header, one byte at a time
        path = save(tmp_path / "depth/b.npy", good[:place] + bytes([good[place] ^ 0x51]) + good[place + 1 :])
        try:
            read = files.read_npy(path, SIZE)
        except DataError as error:
            assert "depth/b.npy" in str(error)
        else:  # a blank, or another type of the same width
            assert read.shape == SIZE


@pytest.mark.parametrize(
    ("value", "channels", "message"),
    [
        (depth().astype(object), 1, "depth/a.npy can't be read: Object arrays"),
        (pickle.dumps(depth()), 1, "depth/a.npy can't be read: .*pickled"),
        (depth().astype(str), 1, "holds <U32, expected numbers"),
        (depth().astype(complex), 1, "holds complex128, expected numbers"),
        (ARRAY, 1, r"of shape \(24, 32, 3\), expected \(H, W\), \(H, W, 1\) or \(1, H, W\)"),
        (depth(), 3, r"of shape \(24, 32\), expected \(H, W, 3\)"),
        (ARRAY.transpose(2, 0, 1), 3, r"of shape \(3, 24, 32\), expected \(H, W, 3\)"),
        (depth()[:, 1:], 1, "is 24x31, its photograph 24x32"),
    ],
)
def test_another_array_is_refused(tmp_path: Path, value, channels: int, message: str) -> None:
    refused(files.read_npy, save(tmp_path / "depth/a.npy", value), SIZE, channels, match=message)


def test_an_archive_of_arrays_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, depth=depth())
    refused(files.read_npy, tmp_path / "a.npy", match=r"is an archive of arrays \(npz\)")
    refused(files.read_npy, tmp_path / "depth/b.npy", match="^depth/b.npy is missing$")


def test_matlab_files(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"LabelMap": codes(), "other": 1})
    np.testing.assert_array_equal(files.read_mat(path, "LabelMap"), codes())
    refused(files.read_mat, path, "groundtruth", match="a.mat holds no groundtruth")
    cut(path)
    refused(files.read_mat, path, "LabelMap", match="a.mat can't be read")
    refused(files.read_mat, tmp_path / "b.mat", "LabelMap", match="b.mat is missing")


# -- lists of ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["b 1\na\nc.d\n", "b 1\r\na\r\nc.d", "\ufeff\n  b 1 \n\na\nc.d\n\n"])
def test_ids_one_a_line_in_order(tmp_path: Path, text: str) -> None:
    assert files.read_ids(save(tmp_path / "train.txt", text.encode())) == ["b 1", "a", "c.d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "gt_sets/train.txt is empty"),
        (b" \n\n", "gt_sets/train.txt is empty"),
        (b"a\nb\na\nc\nb\n", "names 2 ids twice, the first: a"),
        (b"a\nimages/b\n", "gt_sets/train.txt holds 'images/b': an id is a plain file name"),
        (b"a\n..\\b\n", "holds .* an id is a plain file name"),
        (b"..\n", "holds '..': an id is a plain file name"),
        (b"a\0b\n", "an id is a plain file name"),
        (b"\xff\xfe\x00a", "gt_sets/train.txt can't be read"),
    ],
)
def test_a_bad_list_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    refused(files.read_ids, save(tmp_path / "gt_sets/train.txt", content), match=message)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    refused(files.read_ids, tmp_path / "gt_sets/val.txt", match="gt_sets/val.txt is missing")
