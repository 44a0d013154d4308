"""What values a label may hold: one clear DataError, with the file and the remedy, for what is none or is ambiguous."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.datasets.files import shown

_FAR = 100.0  # metres; no room or street that is measured in metres has a median beyond
_UNIT = (0.9, 1.1)  # lengths that pass for a unit vector, after rounding to 8 bits
_OFF = 0.25  # share of pixels with another length that is still no sign of another coding
_DIRECTION = (0.5, 1.5)  # lengths of a vector that still says where it points: a mean of neighbours is shorter than 1
_LARGEST_16_BITS = 65535


def is_code(stored: np.ndarray, codes: float | Iterable[float]) -> np.ndarray:
    """Where `stored` is one of `codes`, as bool of its shape; codes are rounded to its type, NaN is a code too."""
    found = np.zeros(stored.shape, bool)
    for code in np.atleast_1d(np.asarray(codes, dtype=np.float64)):
        if stored.dtype.kind == "f":
            with np.errstate(over="ignore"):  # 1e10 in 16 bits is infinite, in the file as here
                rounded = stored.dtype.type(code)
            found |= np.isnan(stored) if np.isnan(code) else stored == rounded
        else:
            found |= stored == code
    return found


def check_classes(value: np.ndarray, valid: np.ndarray, classes: int, path: Path, first: int = 0) -> None:
    """Raise DataError when a valid pixel is not one of `classes` codes; `first` is the file's code of class 0."""
    codes = value[valid]
    if codes.size and (codes.max() >= classes + first or codes.min() < first):
        wrong = np.unique(codes[(codes >= classes + first) | (codes < first)])
        raise DataError(
            f"{shown(path)} holds {', '.join(map(str, wrong[:5]))}, but its {classes} classes are coded "
            f"{first} to {classes + first - 1}"
        )


def whole_numbers(value: np.ndarray, path: Path) -> np.ndarray:
    """An array of codes as int64. Raises DataError for one that is not whole."""
    value = value.astype(np.uint8) if value.dtype == np.bool_ else value
    wrong = value[~((np.abs(value.astype(np.float64)) < 2**31) & (value == np.floor(value)))]
    if wrong.size:
        raise DataError(f"{shown(path)} holds {wrong[0]:g}, expected codes, which are whole numbers")
    return value.astype(np.int64)


def within_reach(value: np.ndarray, valid: np.ndarray, max_depth: float | None, path: Path) -> np.ndarray:
    """`valid` without depth beyond `max_depth` metres. Raises DataError when that is most of an image in other units.

    A sky of one code may fill an image; millimetres, of which most are beyond too, have many values.
    """
    if max_depth is None:
        return valid
    beyond = valid & (value > max_depth)
    far = value[beyond]
    if far.size > 0.5 * valid.sum() and far.min() != far.max() and np.isfinite(median := float(np.median(far))):
        raise DataError(
            f"{shown(path)}: {100 * far.size / valid.sum():.0f} % of its depth is beyond max_depth ({max_depth:g} m), "
            f"with a median of {median:g} m; that looks like millimetres: store metres, or raise max_depth"
        )
    return valid & ~beyond


def check_depth(value: np.ndarray, valid: np.ndarray, path: Path, max_depth: float | None = None) -> None:
    """Raise DataError for valid depth that is not finite, not positive, looks like millimetres or like a code.

    max_depth: metres that a person vouches for; without it, depth beyond 100 m is taken for a code or another unit.
    """
    depth = value[valid]
    if not depth.size:
        return
    if (wrong := depth[~(np.isfinite(depth) & (depth > 0))]).size:
        raise DataError(
            f"{shown(path)} holds depth that is negative or not finite ({wrong[0]:g}); 0 means missing, and so do the "
            "codes in ignore.depth of dataset.yaml (.nan and .inf for NaN and infinity)"
        )
    limit = max(_FAR, max_depth or 0)
    if (median := float(np.median(depth))) > limit:
        raise DataError(
            f"{shown(path)} has a median depth of {median:.0f} m; that looks like millimetres: store metres"
        )
    if (farthest := float(depth.max())) > limit:
        raise DataError(
            f"{shown(path)} holds depth of {farthest:g} m, a code or a distance: in dataset.yaml, name a code in "
            "ignore.depth, or set max_depth, in metres, to what is real"
        )
    with np.errstate(under="ignore"):
        if (small := depth[depth.astype(np.float32) == 0]).size:
            raise DataError(
                f"{shown(path)} holds depth of {small[0]:g} m, which is 0 in 32 bits: write 0 where depth is missing"
            )


def check_depth_codes(units: np.ndarray, valid: np.ndarray, path: Path) -> None:
    """Raise DataError for 16-bit depth that is the largest number: a code for no reading, or a clipped one."""
    if full := int(np.count_nonzero(units[valid] == _LARGEST_16_BITS)):
        raise DataError(
            f"{shown(path)} holds {_LARGEST_16_BITS}, the largest number of 16 bits, at {full} pixels: that is no "
            f"reading; set ignore: {{depth: {_LARGEST_16_BITS}}} in dataset.yaml"
        )


def check_normals(value: np.ndarray, valid: np.ndarray, path: Path) -> None:
    """Raise DataError when more than a quarter of the valid normals are no unit vectors (coded 0..1 or 0..255, say).

    What went through a lossy picture or a resize is off at some pixels: see `has_direction`.
    """
    vectors = value[valid].astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=-1)
    if not lengths.size:
        return
    off = ~((lengths > _UNIT[0]) & (lengths < _UNIT[1]))  # written so that NaN is off too
    if off.mean() > _OFF:
        raise DataError(
            f"{shown(path)} holds normals that are not unit vectors: {100 * off.mean():.0f} % of them, "
            f"with a median length of {np.nanmedian(lengths):.3g}; components are expected in -1 .. 1{_common(vectors)}"
        )


def has_direction(lengths: np.ndarray) -> np.ndarray:
    """Where a vector of that length may be made unit; others, such as a code (-1, -1, -1), are no normals."""
    return (lengths > _DIRECTION[0]) & (lengths < _DIRECTION[1])


def _common(vectors: np.ndarray) -> str:
    """The remedy for a code: a vector with three times the same component, at many pixels."""
    same = vectors[(vectors == vectors[:, :1]).all(axis=1)][:, 0]
    if same.size < _OFF / 2 * len(vectors):
        return ""
    values, counts = np.unique(same, return_counts=True)
    code = values[counts.argmax()]
    return (
        f"; ({code:g}, {code:g}, {code:g}) occurs {counts.max()} times: where it means missing, name what the file "
        "holds there in ignore.normals of dataset.yaml"
    )
