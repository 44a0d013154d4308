"""The types of values in params.yaml: numbers with their ranges, names with what is known.

Numbers given as text, such as `1e-05` (which YAML 1.1 reads as text), become numbers; true and false do not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, cast

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from pipeline.core import names

RELEASED = "released"

# What breaks lines, rings, hides or turns text round: names and paths end up in files, tables and messages.
UNFIT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ufeff\\ud800-\\udfff]")


def _no_bool(value: object) -> object:
    """Python counts True as the number 1; in a params file it is a slip."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _plain_int(value: object) -> object:
    """A seed is part of a stage's name, which DVC makes of what it reads: 1.0, "1_2" and "01" would be other stages."""
    if type(value) is not int:
        raise ValueError("must be a whole number in plain digits, without quotes, point and exponent")
    return value


def _seed_key(value: object) -> int:
    if isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,9}", value):
        return int(value)
    if type(value) is int:  # of params that were read before
        return value
    raise ValueError('must be a seed in quotes, such as "0"')


def _pretrained(value: object) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip()):
        return _text(value) if isinstance(value, str) else value
    raise ValueError("must be false, true (timm's weights) or the path of a weights file")


def _auto_or_bool(value: object) -> bool | str:
    if isinstance(value, bool) or value == "auto":
        return value
    raise ValueError("must be auto, true or false")


def one_of(kind: str, known: Sequence[str | int]) -> AfterValidator:
    """A validator that takes only known names, and tells the nearest otherwise."""

    def check(name: str | int) -> str | int:
        if name not in known:
            raise ValueError(names.unknown(kind, name, known))
        return name

    return AfterValidator(check)


def _text(value: str) -> str:
    if not value.strip() or value != value.strip():
        raise ValueError("must be text without blanks at its ends, and not empty")
    if found := UNFIT.search(value):
        raise ValueError(f"must not hold the control character U+{ord(found[0]):04X}")
    return value


def _unique(values: tuple) -> tuple:
    repeated = sorted({value for value in values if values.count(value) > 1}, key=str)
    if repeated:
        raise ValueError(f"must not repeat {', '.join(map(str, repeated))}")
    return values


def _run_name(name: str) -> str:
    if not names.is_run_name(name):
        raise ValueError(f"a run's name is {names.RUN_NAME_RULE}")
    return name


def _batch_norm_momentum(value: object) -> float | str:
    if value == RELEASED:
        return RELEASED
    with suppress(TypeError, ValueError):
        if (
            not isinstance(value, bool) and 0 < (number := float(cast("str | float", value))) <= 1
        ):  # 1e-2 is text in YAML 1.1
            return number
    raise ValueError(f"must be {RELEASED}, or a number above 0 and at most 1")


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("must be the 64 hexadecimal digits that `sha256sum` prints")
    return value


Sha256 = Annotated[str, AfterValidator(_sha256)]
Text = Annotated[str, Field(max_length=1000), AfterValidator(_text)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_text)]  # what MLflow takes
Unique = AfterValidator(_unique)
NoBool = BeforeValidator(_no_bool)
Positive = Annotated[float, NoBool, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, NoBool, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, NoBool, Field(ge=0, le=1)]
StepFactor = Annotated[float, NoBool, Field(gt=0, le=1)]
Angle = Annotated[float, NoBool, Field(ge=0, le=180)]
Momentum = Annotated[float, NoBool, Field(ge=0, lt=1)]
Count = Annotated[int, NoBool, Field(ge=1)]
Natural = Annotated[int, NoBool, Field(ge=0)]
OutputStride = Annotated[int, NoBool, one_of("output stride", (32, 16, 8))]
# What NumPy's and torch's generators both take.
Seed = Annotated[int, BeforeValidator(_plain_int), Field(ge=0, lt=2**32)]
# As the key of a mapping, where YAML's readers agree on text alone.
SeedKey = Annotated[int, BeforeValidator(_seed_key), Field(ge=0, lt=2**32)]
if TYPE_CHECKING:  # of two: pydantic learns the length from the field, for a message that names it
    Size = tuple[int, int]
else:
    Size = Annotated[tuple[Annotated[int, NoBool, Field(ge=32)], ...], Field(min_length=2, max_length=2)]
TaskName = Annotated[str, one_of("task", names.TASKS)]
TaskNames = Annotated[tuple[TaskName, ...], Unique]
AutoOrBool = Annotated[bool | str, PlainValidator(_auto_or_bool)]
BatchNormMomentum = Annotated[float | str, PlainValidator(_batch_norm_momentum)]
Pretrained = Annotated[bool | str, PlainValidator(_pretrained)]
RunName = Annotated[str, AfterValidator(_run_name)]
