"""Values of labels: what is none, or may be a code, is one clear error that names the file and the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.datasets import checks
from tests.support.layout_files import SIZE, codes, depth, normals

ARRAY = normals()


def refused(call, *arguments, match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


def test_class_codes() -> None:
    value, every = codes(), np.ones(SIZE, bool)
    checks.check_classes(value, every, 41, Path("a"))
    checks.check_classes(value, value > 0, 40, Path("a"), first=1)
    checks.check_classes(value, ~every, 1, Path("a"))
    refused(
        checks.check_classes, value, every, 39, Path("s/a.png"), match="s/a.png holds 39, 40, .*39 classes .* 0 to 38"
    )
    refused(checks.check_classes, value, every, 40, Path("s/a.png"), 1, match="s/a.png holds 0, .* are coded 1 to 40")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d * 1000, "median depth of 5[0-9]{3} m; that looks like millimetres"),
        (lambda d: d - 1, "negative or not finite"),
        (lambda d: np.where(d > 9, np.nan, d), "negative or not finite"),
        (lambda d: np.where(d > 9, np.inf, d), "negative or not finite"),
    ],
)
def test_depth_values(change, message: str) -> None:
    value = depth()
    valid = value != 0
    checks.check_depth(value, valid, Path("a"))
    refused(checks.check_depth, change(value), valid, Path("depth/a.npy"), match=f"depth/a.npy.*{message}")


@pytest.mark.parametrize(
    "change",
    [
        lambda n: np.rint((n + 1) * 127.5),
        lambda n: (n + 1) / 2,
        lambda n: n * 0.5,
        lambda n: np.where(n > 0.9, np.nan, n),
    ],
)
def test_normals_are_unit_vectors(change) -> None:
    valid = ARRAY.any(axis=-1)
    checks.check_normals(ARRAY, valid, Path("a"))
    checks.check_normals(ARRAY, np.zeros(SIZE, bool), Path("a"))
    few = ARRAY.copy()
    few[0, :5] = 3  # of 740: some pixels may be off, as real ones are
    checks.check_normals(few, valid, Path("a"))
    refused(checks.check_normals, change(ARRAY), valid, Path("n/a.npy"), match="n/a.npy .* not unit vectors: .* %")
