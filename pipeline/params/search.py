"""The section `search` of params.yaml: which values `python -m stages.search` tries. No stage of the graph reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, StrictBool, ValidationError, field_validator, model_validator

from pipeline.core import names
from pipeline.params.messages import problems_of, show
from pipeline.params.section import Section
from pipeline.params.types import Count, Name, Seed, Text, one_of
from pipeline.params.yaml_file import read_yaml

RELATIVE_GAIN = "relative_gain"
OBJECTIVES = (RELATIVE_GAIN, *names.TASKS)
Scalar = bool | int | float | str | None

_search = read_yaml(Path(__file__).with_name("defaults.yaml"))["search"]
_LARGEST = 1e15
_FORM = "must be a list of choices, such as [a, b], or {low: a, high: b}, with log: true or step: c if wanted"


class Range(Section):
    """Numbers from `low` to `high`, both included; whole ones where all that is given is written as whole numbers.

    log: drawn evenly by their logarithm. step: only low, low + step and so on.
    """

    low: int | float
    high: int | float
    log: StrictBool = False
    step: int | float | None = None

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, given: dict[str, Any]) -> dict[str, Any]:
        numbers = {key: _number(key, given[key]) for key in ("low", "high", "step") if given.get(key) is not None}
        return {**given, **numbers}

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        low, high, step = self.low, self.high, self.step
        if low >= high:
            raise ValueError(f"low {show(low)} must be less than high {show(high)}")
        if self.log and low <= 0:
            raise ValueError(f"got low {show(low)}; must be above 0 where log is true")
        if self.log and step is not None:
            raise ValueError("log: true and step exclude each other; leave one out")
        if step is not None:
            parts = (high - low) / step if step > 0 else 0.0
            if parts < 1 or abs(parts - round(parts)) > 1e-6:
                raise ValueError(f"got step {show(step)}; must divide high - low, {high - low:g}, without remainder")
        return self

    @property
    def whole(self) -> bool:
        """Whether these are whole numbers."""
        return all(isinstance(each, int) for each in (self.low, self.high, self.step) if each is not None)


Entry = Range | tuple[Scalar, ...]


class Search(Section):
    """What is tried: values by key of a run, such as training.lr or options.fpma_mask.

    trials: of each run, by all workers together. budget: epochs of a trial; None: the run's own. objective: the mean
    relative gain of its tasks' primary metrics over the run as it stands, or one task, whose primary metric counts.
    seed: of the values that are proposed. study: its name in the storage; None: the experiment's. storage: None: a file
    in the project's folder, else the address of a database that several machines share.
    """

    space: dict[str, Entry] = _search["space"]
    trials: Count = _search["trials"]
    budget: Count | None = _search["budget"]
    objective: Annotated[str, one_of("objective", OBJECTIVES)] = _search["objective"]
    seed: Seed = _search["seed"]
    study: Name | None = _search["study"]
    storage: Annotated[Text, AfterValidator(lambda text: _address(text))] | None = _search["storage"]

    @field_validator("space", mode="plain")
    @classmethod
    def _entries(cls, space: object) -> dict[str, Entry]:
        if not isinstance(space, dict):
            raise ValueError("must be keys and values, such as {training.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}")
        return {str(key): _entry(str(key), entry) for key, entry in space.items()}


def _entry(key: str, entry: object) -> Entry:
    if isinstance(entry, Mapping):
        try:
            return Range.model_validate(entry)
        except ValidationError as error:
            found = next(problems_of(error, Range, prefix=key))
            raise ValueError(f"{found.path}: {found.text}" if found.path else found.text) from None
    if not isinstance(entry, list | tuple):
        raise ValueError(f"{key}: got {show(entry)}; {_FORM}")
    if odd := [each for each in entry if not isinstance(each, bool | int | float | str | None)]:
        raise ValueError(f"{key}: got {show(odd[0])} among the choices; each must be one value, no list and no mapping")
    choices = tuple(plain(each) for each in entry)
    different = {(isinstance(each, bool), each) for each in choices}  # 1 and 1.0 are the same; true is no number
    if len(entry) < 2 or len(different) < len(entry):
        raise ValueError(f"{key}: got {show(list(entry))}; must be two or more different choices")
    return choices


def _number(key: str, value: object) -> float | int:
    """A number, also one that YAML 1.1 reads as text, such as 1e-5."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= _LARGEST:
        raise ValueError(f"got {key} {show(value)}; must be a number, {_LARGEST:g} at most")
    return number


def plain(value: Any) -> Any:
    """A value, or the number that YAML 1.1 reads as text, such as 1e-5."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _address(text: str) -> str:
    if "://" not in text:
        raise ValueError("must be null, or a database's address such as postgresql+psycopg://user@host/name")
    return text
