"""What the numbers of a label PNG are: those in the file, or the grey levels that a viewer shows.

PNG optimisers keep the look of a file and change its numbers: grey becomes a palette of grey, in any order, or grey of
fewer bits, of which 1 shows as 17, 85 or 255. Whoever writes codes into a palette, or into 4 bits, means the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.data.sample import Label
from pipeline.datasets.files import Codes, shown

READINGS = ("stored", "levels")


def read_either(
    codes: Codes,
    path: Path,
    task: str,
    meant: str | None,
    label: Callable[[np.ndarray], Label],
    mask: bool = False,
) -> Label:
    """The label of a PNG of codes in the reading that is meant, one of READINGS.

    None: the one reading in which every code is known, that is, in which `label` raises no DataError. mask: what is
    black is 0 there, in a palette of colours too. Raises DataError where both readings have known codes and
    differ, and where neither has.
    """
    if meant == "levels":
        if codes.levels is None:
            raise DataError(f"{shown(path)} has a palette of colours, which png_codes: {{{task}: levels}} can't read")
        return label(codes.levels)
    if meant is not None:
        return label(codes.stored)
    if mask and codes.inverted:
        raise _ambiguous(path, task, "its palette shows another index than 0 as black")
    if codes.levels is None or np.array_equal(codes.levels, codes.stored):
        return label(codes.stored)
    try:
        stored = label(codes.stored)
    except DataError as error:
        try:
            return label(codes.levels)
        except DataError:
            raise error from None
    try:
        levels = label(codes.levels)
    except DataError:
        return stored
    if np.array_equal(levels.value, stored.value) and np.array_equal(levels.valid, stored.valid):
        return stored
    differ = np.argmax(codes.levels.ravel() != codes.stored.ravel())
    number, level = codes.stored.flat[differ], codes.levels.flat[differ]
    raise _ambiguous(path, task, f"it holds {number}, which a viewer shows as grey {level} of 255")


def _ambiguous(path: Path, task: str, why: str) -> DataError:
    return DataError(
        f"{shown(path)} can be read in two ways: {why}; write it as grey PNG of 8 bits, or set png_codes: "
        f"{{{task}: stored}}, for the numbers in the file, or {{{task}: levels}}, for the grey shown, in dataset.yaml"
    )
