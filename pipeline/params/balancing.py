"""The section `runs.<run>.balancing` of params.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict

from pipeline.core import names
from pipeline.params.section import Section
from pipeline.params.types import NoBool, one_of


class Balancing(Section):
    """How a run balances its tasks: a method, and its options by name. Defaults: pipeline/balancing."""

    model_config = ConfigDict(extra="allow")
    if not TYPE_CHECKING:  # which takes it for a field
        __pydantic_extra__: dict[str, Annotated[float, NoBool]]

    method: Annotated[str, one_of("balancing method", tuple(names.BALANCING))] = names.FIXED

    @property
    def options(self) -> dict[str, float]:
        """{option: value} of those that are given."""
        return dict(self.model_extra or {})

    def __str__(self) -> str:
        given = ", ".join(f"{option} {value:g}" for option, value in self.options.items())
        return f"{self.method} ({given})" if given else self.method
