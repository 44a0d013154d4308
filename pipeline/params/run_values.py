"""What a run has for a key below `runs.<run>`, its defaults included."""

from __future__ import annotations

from typing import Any

from pipeline.core import names
from pipeline.params.schema import Params


def current_value(params: Params, name: str, key: str) -> Any:
    """What the run has for a key such as training.lr; `...` where it leaves an option of its balancing out."""
    run = params.run(name)
    defaults = {option: choices[0] for option, choices in names.ARCHITECTURE_OPTIONS[run.architecture].items()}
    value: Any = {
        "training": run.training.model_dump(),
        "options": defaults | run.options,
        "balancing": run.balancing.model_dump(),
    }
    for part in key.split("."):
        value = value.get(part, ...) if isinstance(value, dict) else ...
    return value


def is_same(one: object, other: object) -> bool:
    """Whether two values mean the same: numbers by their size, 1 and 1.0; true is no number."""
    if isinstance(one, int | float) and isinstance(other, int | float) and bool not in (type(one), type(other)):
        return one == other
    return type(one) is type(other) and one == other
