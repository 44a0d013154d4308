"""Photographs as people have them: odd depths, modes, tags and sizes come out as they look, or are refused by name."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import DataError
from pipeline.datasets import files
from tests.support.layout_files import SIZE, codes, depth, photo, save
from tests.support.own_data import png

READERS = (files.read_photo, files.read_photo_as_seen)
ORIENTATION = 0x0112


def refused(call, *arguments, match: str, **options) -> None:
    with pytest.raises(DataError, match=match) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)


def jpeg(exif: bytes, **options: object) -> bytes:
    """A sound JPEG with these bytes as its EXIF block."""
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, "JPEG", quality=100, subsampling=0, exif=exif, **options)
    return buffer.getvalue()


def tagged(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    return exif


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbagegarbage",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01x\0\0\0\0\0\0\0",  # a letter
    ],
)
@pytest.mark.parametrize("density", [{}, {"dpi": (72, 72)}])  # without one, Pillow looks for it in the EXIF block
def test_a_damaged_exif_block_does_not_matter(tmp_path: Path, exif: bytes, density: dict) -> None:
    path = save(tmp_path / "images/a.jpg", jpeg(exif, **density))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image in (files.read_photo(path, only_upright=True), files.read_photo_as_seen(path)):
            assert np.abs(image.astype(int) - photo()).max() <= 3


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("tag", [0, 1, 9, 255, 65535])
def test_orientations_that_mean_nothing_are_upright(tmp_path: Path, tag: int, ending: str) -> None:
    path = save(tmp_path / f"images/a.{ending}", photo(), exif=tagged(tag))
    for image in (files.read_photo(path, only_upright=True), files.read_photo_as_seen(path)):
        assert np.abs(image.astype(int) - photo()).max() <= 9


# What the standard says that row 0 and column 0 of the file are on the picture, as moves of the array.
TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("tag", TURNS)
def test_every_turn_is_made_for_a_person_and_refused_with_labels(tmp_path: Path, tag: int) -> None:
    path = save(tmp_path / "images/a.png", photo(), exif=tagged(tag))
    np.testing.assert_array_equal(files.read_photo_as_seen(path), TURNS[tag](photo()))
    np.testing.assert_array_equal(files.read_photo(path), photo())
    refused(files.read_photo, path, only_upright=True, match=rf"images/a.png is turned .* \(EXIF {tag}\)")


def test_16_bits_of_grey_are_seen_as_8(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    path = save(tmp_path / "images/a.png", png(16, 0, ramp))
    seen = files.read_photo_as_seen(path)
    np.testing.assert_array_equal(seen, np.repeat(np.rint(ramp / 257)[..., None], 3, axis=2))
    assert seen.dtype == np.uint8 and (seen == 255).mean() < 0.01
    refused(files.read_photo, path, match="images/a.png is a I;16 image, expected a photograph with 8 bits")


def test_numbers_of_32_bits_are_no_photograph(tmp_path: Path) -> None:
    for name, value in (("f", depth()), ("i", codes().astype(np.int32) * 9)):
        path = save(tmp_path / f"images/{name}.tiff", value)
        refused(files.read_photo_as_seen, path, match=f"images/{name}.tiff is a . image, of 32 bits, .* white")
        refused(files.read_photo, path, match=f"images/{name}.tiff is a . image, expected a photograph with 8 bits")


@pytest.mark.parametrize("read", READERS)
def test_few_bits_and_palettes_are_seen_as_they_look(tmp_path: Path, read) -> None:
    for bits in (1, 2, 4, 8):
        most = 2**bits - 1
        levels = read(save(tmp_path / "a.png", png(bits, 0, codes(most))))
        np.testing.assert_array_equal(levels, np.repeat((codes(most) * (255 // most))[..., None], 3, axis=2))
    colours = [(i, 255 - i, i // 2) for i in range(16)]
    seen = read(save(tmp_path / "a.png", png(4, 3, codes(15), colours)))
    np.testing.assert_array_equal(seen, np.array(colours, np.uint8)[codes(15)])


@pytest.mark.parametrize("read", READERS)
def test_inks_become_colours_and_alpha_is_left_out(tmp_path: Path, read) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photo()).convert("CMYK").save(path, quality=100, subsampling=0)
    assert np.abs(read(path).astype(int) - photo()).max() <= 6
    grey_alpha = np.dstack([codes(), codes(255)])
    np.testing.assert_array_equal(read(save(tmp_path / "b.png", grey_alpha)), np.repeat(codes()[..., None], 3, axis=2))
    np.testing.assert_array_equal(read(save(tmp_path / "c.png", np.dstack([photo(), codes(255)]))), photo())


@pytest.mark.parametrize("read", READERS)
def test_a_very_large_photograph_is_read_or_refused_but_not_warned_of(tmp_path: Path, monkeypatch, read) -> None:
    path = save(tmp_path / "images/a.png", photo())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow warns from here, and stops at twice as much
        np.testing.assert_array_equal(read(path), photo())
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
        refused(
            read, path, match=r"images/a.png is too large: Image size \(768 pixels\) exceeds limit of 600 pixels; make"
        )
