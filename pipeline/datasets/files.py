"""Reading the files that datasets come in, each checked as it is opened: one clear DataError for what is not right."""

from __future__ import annotations

import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from numpy.lib import format as npy
from PIL import Image

from pipeline.core.errors import DataError
from pipeline.core.forms import is_plain_name
from pipeline.core.machine_faults import raise_if_of_the_machine
from pipeline.datasets.mat_sizes import check_sizes

_ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 2 to 8 are the turns below; the standard reserves all others
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Size = tuple[int, int]  # height, width


def read_photo(path: Path, only_upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as stored: labels were drawn on that, so an orientation tag is not obeyed.

    only_upright: refuse a photograph whose tag turns or mirrors it, where nobody knows on which view labels were drawn.
    Pillow, because OpenCV fills the missing part of a truncated JPEG with grey and says nothing.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):  # converting would clip it to white
            raise DataError(f"{shown(path)} is a {image.mode} image, expected a photograph with 8 bits a channel")
        if only_upright and (tag := _orientation(image)) != 1:
            raise DataError(
                f"{shown(path)} is turned by its orientation tag (EXIF {tag}): save it upright and without the tag, "
                "so that its labels surely fit it"
            )
        return np.asarray(image.convert("RGB"))


def read_photo_as_seen(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as a person sees it: its orientation tag is obeyed. For photographs without labels.

    16 bits become 8, white stays white. Raises DataError for numbers of 32 bits, whose white is written nowhere.
    """
    with _opened(path) as image:
        tag = _orientation(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise DataError(
                f"{shown(path)} is a {image.mode} image, of 32 bits, so that nobody knows which value is white: save "
                "it with 8 or 16 bits a channel"
            )
        if tag in _TURNS:
            image = image.transpose(_TURNS[tag])
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class Codes:
    """The two ways to read a label image of one channel, which differ below 8 bits and for a palette of grey levels.

    stored: (H, W) uint8, the numbers in the file: grey as stored, the indices of a palette.
    levels: (H, W) uint8, the grey levels, 0 black to 255 white, that a viewer shows; None for a palette of colours.
    inverted: a palette of colours in which 0 is not black, but another index in use is.
    """

    stored: np.ndarray
    levels: np.ndarray | None
    inverted: bool = False


def read_codes(path: Path, size: Size | None = None) -> Codes:
    """A label image of one channel with 1 to 8 bits. Raises DataError as `read_png` does.

    Pillow stretches grey of 2 and 4 bits to 0..255: to 85 and 17 times what is stored.
    """
    with _opened(path) as image:
        bits = _png_bits(path, image)
        if image.mode not in ("1", "L", "P"):
            raise DataError(f"{shown(path)} is a {image.mode} image, expected P or L (8 bits)")
        pixels = _of_size(np.asarray(image).astype(np.uint8), path, size)
        if image.mode == "P":
            return _indexed(pixels, np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
    if image.mode == "1":
        return Codes(pixels, pixels * np.uint8(255))
    return Codes(pixels // np.uint8(255 // (2**bits - 1)), pixels)


def _indexed(indices: np.ndarray, palette: np.ndarray) -> Codes:
    if indices.max() >= len(palette):  # damaged, but readers show black there
        palette = np.concatenate([palette, np.zeros((256 - len(palette), 3), np.uint8)])
    if (palette == palette[:, :1]).all():
        return Codes(indices, palette[indices, 0])
    black = ~palette[np.unique(indices[indices > 0])].any(axis=1)
    return Codes(indices, None, bool(black.any() and palette[0].any()))


def read_png(path: Path, size: Size | None = None, channels: int = 1) -> np.ndarray:
    """uint8 (H, W) codes, or (H, W, 3) for 3 channels, as stored; a palette's indices, not its colours.

    size: what it must be, that of the photograph. Raises DataError for another size, depth or number of channels, and
    for what is no PNG by its contents: a JPEG has lost the codes.
    """
    if channels == 1:
        return read_codes(path, size).stored
    with _opened(path) as image:
        bits = _png_bits(path, image)
        if image.mode != "RGB":
            raise DataError(f"{shown(path)} is a {image.mode} image, expected RGB (8 bits)")
        if bits != 8:  # Pillow drops the lower half of 16 bits
            raise DataError(f"{shown(path)} has {bits} bits a channel, expected RGB of 8 bits; or store it as npy")
        array = np.asarray(image)
    return _of_size(array, path, size)


def read_png16(path: Path, size: Size | None = None) -> np.ndarray:
    """uint16 (H, W), as stored. Raises DataError as `read_png` does."""
    with _opened(path) as image:
        _png_bits(path, image)
        if not image.mode.startswith("I;16"):
            raise DataError(f"{shown(path)} is a {image.mode} image, expected 16 bits and one channel")
        array = np.asarray(image).astype(np.uint16)
    return _of_size(array, path, size)


def read_npy(path: Path, size: Size | None = None, channels: int = 1) -> np.ndarray:
    """The array as stored, (H, W) or (H, W, channels); numbers or booleans. Raises DataError as `read_png` does.

    One channel may have an axis of its own, (H, W, 1) or (1, H, W), which is dropped.
    """
    array = read_array(path)
    if channels == 1:
        array = _one_channel(array, size)
    want = 2 if channels == 1 else 3
    if array.ndim != want or (want == 3 and array.shape[2] != channels):
        expected = "(H, W), (H, W, 1) or (1, H, W)" if want == 2 else f"(H, W, {channels})"
        raise DataError(f"{shown(path)} holds an array of shape {array.shape}, expected {expected}")
    return _of_size(array, path, size)


def read_array(path: Path) -> np.ndarray:
    """The array of an npy file as stored, of any shape; numbers or booleans. Raises DataError for anything else."""
    try:
        _check_declared_size(path)
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise _missing(path) from None
    except Exception as error:  # numpy raises half a dozen kinds for a damaged header
        raise_if_of_the_machine(error, path)
        raise DataError(f"{shown(path)} can't be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{shown(path)} is an archive of arrays (npz), expected one array: write it with np.save")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{shown(path)} holds {array.dtype}, expected numbers")
    return array


def _check_declared_size(path: Path) -> None:
    """Raise ValueError for an npy file whose header says more than there is: numpy would ask for that memory first."""
    with path.open("rb") as file:
        if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            return  # numpy says what it is instead
        file.seek(0)
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        declared, found = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
    if declared > found:
        raise ValueError(f"its header says {declared:,} bytes of numbers, it holds {found:,}")


def _one_channel(array: np.ndarray, size: Size | None) -> np.ndarray:
    """(H, W) of (H, W, 1) or (1, H, W), of which an image of one row or column may be both; others as they are."""
    if array.ndim != 3:
        return array
    planes = [array[..., 0]] if array.shape[2] == 1 else []
    planes += [array[0]] if array.shape[0] == 1 else []
    return next((plane for plane in planes if plane.shape == size), planes[0] if planes else array)


def read_mat(path: Path, name: str, **options: bool) -> np.ndarray:
    """The variable `name` of a MATLAB file; `options` go to scipy.io.loadmat. Raises DataError."""
    if not path.is_file():
        raise _missing(path)
    try:
        with path.open("rb") as file:  # SciPy's own opening hides why it failed
            check_sizes(file, os.fstat(file.fileno()).st_size)
            return scipy.io.loadmat(file, variable_names=[name], **options)[name]
    except KeyError:
        raise DataError(f"{shown(path)} holds no {name}") from None
    except Exception as error:  # scipy raises a dozen kinds for a damaged file, some of them its own slips
        raise_if_of_the_machine(error, path)
        raise DataError(f"{shown(path)} can't be read: {error}") from error


def read_ids(path: Path) -> list[str]:
    """The ids of a split, one a line, in the file's order; blank lines are skipped.

    In Unicode's normal form C, so that two spellings of one name are one id. Raises DataError for a missing or empty
    file, for twins and for an id that would leave the dataset's folders.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # -sig: editors on Windows begin a file with a mark
    except FileNotFoundError:
        raise DataError(f"{shown(path)} is missing: it lists the split's ids, one a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise_if_of_the_machine(error, path)
        raise DataError(f"{shown(path)} can't be read: {error}") from error
    ids = [unicodedata.normalize("NFC", line.strip()) for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{shown(path)} is empty; it needs at least one id")
    for name in ids:
        if not is_plain_name(name):
            raise DataError(f"{shown(path)} holds {name!r}: an id is a plain file name without folder and ending")
        if name.startswith("."):
            raise DataError(f"{shown(path)} holds {name!r}: an id may not begin with a dot: DVC passes over such files")
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    if twice:
        raise DataError(f"{shown(path)} names {len(twice)} ids twice, the first: {twice[0]}")
    return ids


def shown(path: Path) -> str:
    """The file as a person finds it in the dataset: its folder and its name."""
    return "/".join(path.parts[-2:])


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A decoded image; everything that Pillow may raise becomes a DataError with the file's name, nothing is warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half the size that is refused, of tags: neither changes a pixel
        try:
            image = Image.open(path)
            image.load()
        except FileNotFoundError:
            raise _missing(path) from None
        except Image.DecompressionBombError as error:
            size = str(error).partition(",")[0]
            raise DataError(f"{shown(path)} is too large: {size}; make it smaller, its labels too") from error
        except (OSError, SyntaxError, ValueError, MemoryError) as error:
            raise_if_of_the_machine(error, path)
            raise DataError(f"{shown(path)} is not an image, or a damaged one: {error}") from error
        with image:
            yield image


def _orientation(image: Image.Image) -> int:
    """The turn that the EXIF tag asks for, 2 to 8, or 1, upright: also where the tag is damaged or says neither."""
    try:
        tag = image.getexif().get(_ORIENTATION, 1)
        return tag if tag in _TURNS else 1
    except Exception:  # Pillow raises half a dozen kinds for a damaged block beside a sound picture
        return 1


def _png_bits(path: Path, image: Image.Image) -> int:
    """Bits a channel of a PNG. Raises DataError for another format under that name, which may have changed codes."""
    if image.format != "PNG":
        lossy = ", which has changed its values" if image.format in ("JPEG", "MPO") else ""
        raise DataError(
            f"{shown(path)} is a {image.format} file by its contents{lossy}, expected PNG: write the label as PNG, "
            "from what it was made of"
        )
    with path.open("rb") as file:
        return file.read(25)[24]  # signature 8, length and name of IHDR 8, width and height 8


def _of_size(array: np.ndarray, path: Path, size: Size | None) -> np.ndarray:
    if size is not None and array.shape[:2] != tuple(size):
        raise DataError(f"{shown(path)} is {array.shape[0]}x{array.shape[1]}, its photograph {size[0]}x{size[1]}")
    return array


def _missing(path: Path) -> DataError:
    return DataError(f"{shown(path)} is missing")
