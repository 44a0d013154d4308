"""The section `tuned` of params.yaml: how values of a run were found. `stages.search --apply` writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from pipeline.params.search import Scalar, plain
from pipeline.params.section import Section
from pipeline.params.types import Count


class Tuned(Section):
    """A study of one run that has ended: its trials, the epochs of each, and the best values by key, as in `search`."""

    trials: Count
    epochs: Count
    values: dict[str, Annotated[Scalar, BeforeValidator(plain)]]
