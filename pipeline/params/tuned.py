"""The section `tuned` of params.yaml: how values of a run were found. `stages.search --apply` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from pipeline.core import names
from pipeline.params.messages import Problem
from pipeline.params.search import Scalar, plain
from pipeline.params.section import Section
from pipeline.params.types import Count

if TYPE_CHECKING:
    from pipeline.params.schema import Params


class Tuned(Section):
    """A study of one run that has ended: its trials, the epochs of each, and the best values by key, as in `search`."""

    trials: Count
    epochs: Count
    values: dict[str, Annotated[Scalar, BeforeValidator(plain)]]


def tuned_problems(params: Params) -> Iterator[Problem]:
    """Runs in `tuned` that aren't in `runs`."""
    for name in params.tuned:
        if name not in params.runs:
            text = f"{names.unknown('run', name, params.runs)} Take it out"
            yield Problem(f"tuned.{name}", text)
