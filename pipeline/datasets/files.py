"""Reading the files that datasets come in, each checked as it is opened: one clear DataError for what is not right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image, ImageOps

from pipeline.errors import DataError

_FAR = 100.0  # metres; no room or street that is measured in metres has a median beyond
_ORIENTATION = 0x0112  # the EXIF tag: 1 is upright
_UNIT = (0.9, 1.1)  # lengths that pass for a unit vector, after rounding to 8 bits
_OFF = 0.25  # share of pixels with another length that is still no sign of another coding

Size = tuple[int, int]  # height, width


def read_photo(path: Path, only_upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as stored: labels were drawn on that, so an orientation tag is not obeyed.

    only_upright: refuse a photograph whose tag turns or mirrors it, where nobody knows on which view labels were drawn.
    Pillow, because OpenCV fills the missing part of a truncated JPEG with grey and says nothing.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):  # converting would clip it to white
            raise DataError(f"{shown(path)} is a {image.mode} image, expected a photograph with 8 bits a channel")
        if only_upright and (tag := image.getexif().get(_ORIENTATION, 1)) != 1:
            raise DataError(
                f"{shown(path)} is turned by its orientation tag (EXIF {tag}): save it upright and without the tag, "
                "so that its labels surely fit it"
            )
        return np.asarray(image.convert("RGB"))


def read_photo_as_seen(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as a person sees it: its orientation tag is obeyed. For photographs without labels."""
    with _opened(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_png(path: Path, size: Size | None = None, channels: int = 1) -> np.ndarray:
    """uint8 (H, W) codes, or (H, W, 3) for 3 channels, as stored; a palette's indices, not its colours.

    size: what it must be, that of the photograph. Raises DataError for another size, depth or number of channels.
    """
    with _opened(path) as image:
        allowed = {1: ("P", "L"), 3: ("RGB",)}[channels]
        if image.mode not in allowed:
            raise DataError(f"{shown(path)} is a {image.mode} image, expected {' or '.join(allowed)} (8 bits)")
        array = np.asarray(image)
    return _of_size(array, path, size)


def read_png16(path: Path, size: Size | None = None) -> np.ndarray:
    """uint16 (H, W), as stored. Raises DataError as `read_png` does."""
    with _opened(path) as image:
        if not image.mode.startswith("I;16"):
            raise DataError(f"{shown(path)} is a {image.mode} image, expected 16 bits and one channel")
        array = np.asarray(image).astype(np.uint16)
    return _of_size(array, path, size)


def read_npy(path: Path, size: Size | None = None, channels: int = 1) -> np.ndarray:
    """The array as stored, (H, W) or (H, W, channels); numbers or booleans. Raises DataError as `read_png` does."""
    array = read_array(path)
    want = 2 if channels == 1 else 3
    if array.ndim != want or (want == 3 and array.shape[2] != channels):
        expected = "(H, W)" if want == 2 else f"(H, W, {channels})"
        raise DataError(f"{shown(path)} holds an array of shape {array.shape}, expected {expected}")
    return _of_size(array, path, size)


def read_array(path: Path) -> np.ndarray:
    """The array of an npy file as stored, of any shape; numbers or booleans. Raises DataError for anything else."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise _missing(path) from None
    except Exception as error:  # numpy raises half a dozen kinds for a damaged header
        raise DataError(f"{shown(path)} can't be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{shown(path)} is an archive of arrays (npz), expected one array: write it with np.save")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{shown(path)} holds {array.dtype}, expected numbers")
    return array


def read_mat(path: Path, name: str, **options: bool) -> np.ndarray:
    """The variable `name` of a MATLAB file; `options` go to scipy.io.loadmat. Raises DataError."""
    if not path.is_file():
        raise _missing(path)
    try:
        return scipy.io.loadmat(path, variable_names=[name], **options)[name]
    except KeyError:
        raise DataError(f"{shown(path)} holds no {name}") from None
    except Exception as error:  # scipy raises a dozen kinds for a damaged file, some of them its own slips
        raise DataError(f"{shown(path)} can't be read: {error}") from error


def read_ids(path: Path) -> list[str]:
    """The ids of a split, one a line, in the file's order; blank lines are skipped.

    Raises DataError for a missing or empty file, for twins and for an id that would leave the dataset's folders.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # -sig: editors on Windows begin a file with a mark
    except FileNotFoundError:
        raise DataError(f"{shown(path)} is missing: it lists the split's ids, one a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)} can't be read: {error}") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{shown(path)} is empty; it needs at least one id")
    for name in ids:
        if set(name) & set("/\\\0") or name in (".", ".."):
            raise DataError(f"{shown(path)} holds {name!r}: an id is a plain file name without folder and ending")
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    if twice:
        raise DataError(f"{shown(path)} names {len(twice)} ids twice, the first: {twice[0]}")
    return ids


def check_classes(value: np.ndarray, valid: np.ndarray, classes: int, path: Path, first: int = 0) -> None:
    """Raise DataError when a valid pixel is not one of `classes` codes; `first` is the file's code of class 0."""
    codes = value[valid]
    if codes.size and (codes.max() >= classes + first or codes.min() < first):
        wrong = np.unique(codes[(codes >= classes + first) | (codes < first)])
        raise DataError(
            f"{shown(path)} holds {', '.join(map(str, wrong[:5]))}, but its {classes} classes are coded "
            f"{first} to {classes + first - 1}"
        )


def check_depth(value: np.ndarray, valid: np.ndarray, path: Path) -> None:
    """Raise DataError for valid depth that is not finite, not positive, or looks like millimetres."""
    depth = value[valid]
    if not depth.size:
        return
    if not np.isfinite(depth).all() or depth.min() <= 0:
        raise DataError(f"{shown(path)} holds depth that is negative or not finite; 0 means missing")
    if (median := float(np.median(depth))) > _FAR:
        raise DataError(
            f"{shown(path)} has a median depth of {median:.0f} m; that looks like millimetres: store metres"
        )


def check_normals(value: np.ndarray, valid: np.ndarray, path: Path) -> None:
    """Raise DataError when valid normals are not unit vectors (coded 0..1 or 0..255, say).

    What went through a lossy picture is off at some pixels; readers make such vectors unit again.
    """
    lengths = np.linalg.norm(value[valid].astype(np.float32), axis=-1)
    if not lengths.size:
        return
    off = ~((lengths > _UNIT[0]) & (lengths < _UNIT[1]))  # written so that NaN is off too
    if off.mean() > _OFF:
        raise DataError(
            f"{shown(path)} holds normals that are not unit vectors: {100 * off.mean():.0f} % of them, "
            f"with a median length of {np.nanmedian(lengths):.3g}; components are expected in -1 .. 1"
        )


def shown(path: Path) -> str:
    """The file as a person finds it in the dataset: its folder and its name."""
    return "/".join(path.parts[-2:])


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A decoded image; everything that Pillow may raise becomes a DataError with the file's name."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{shown(path)} is not an image, or a damaged one: {error}") from error
    with image:
        yield image


def _of_size(array: np.ndarray, path: Path, size: Size | None) -> np.ndarray:
    if size is not None and array.shape[:2] != tuple(size):
        raise DataError(f"{shown(path)} is {array.shape[0]}x{array.shape[1]}, its photograph {size[0]}x{size[1]}")
    return array


def _missing(path: Path) -> DataError:
    return DataError(f"{shown(path)} is missing")
