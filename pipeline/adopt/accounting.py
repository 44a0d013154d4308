"""Their tensors to ours, each of both accounted for: used, unused for a known reason, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.adopt import values
from pipeline.adopt.rules import COUNTER, Rule, Rules
from pipeline.core.errors import DataError


@dataclass(frozen=True)
class Accounting:
    """Which tensors of a file became which of ours.

    mapped: {ours: theirs}. unused: {why: {theirs: how many numbers it holds}}. notes: what the names can't tell.
    """

    mapped: dict[str, tuple[str, ...]]
    unused: dict[str, dict[str, int]]
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> int:
        """How many tensors of the file were used."""
        return len({theirs for names in self.mapped.values() for theirs in names})

    def lines(self) -> list[str]:
        """The account, for people."""
        found = [f"{self.used} tensors of the file are the {len(self.mapped)} of the network"]
        found += [
            f"{len(sizes)} ({sum(sizes.values()):,} numbers) are not used: {why}{_some(list(sizes))}"
            for why, sizes in self.unused.items()
        ]
        return [*found, *(f"note: {note}" for note in self.notes)]

    def as_object(self) -> dict[str, Any]:
        """The account, for JSON."""
        mapped = {ours: list(theirs) for ours, theirs in self.mapped.items()}
        return {"unused": self.unused, "notes": list(self.notes), "mapped": mapped}


def map_tensors(
    rules: Rules, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], what: str
) -> tuple[dict[str, Tensor], Accounting]:
    """A whole state of our network out of theirs, and the account of it.

    ours: our network's state, for names, shapes and types. what: the file and the run, for messages. Raises DataError
    with the first tensors that are lacking, left over or of another shape, or whose values can't be weights.
    """
    state: dict[str, Tensor] = {}
    mapped: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    lacking: dict[str, None] = {}
    shapes: dict[str, None] = {}
    faults: dict[str, None] = {}
    for name, own in ours.items():
        rule = next((each for each in rules.rules if each.sources(name)), None)
        sources = (rule.sources(name) if rule else None) or ()
        used |= theirs.keys() & set(sources)
        if rule is None:
            lacking[f"what is {name} here"] = None
        elif absent := [source for source in sources if source not in theirs]:
            if name.endswith(COUNTER):  # of batches that statistics were made of: torch has it since 0.4.1
                state[name] = torch.zeros_like(own)
            else:
                lacking |= dict.fromkeys(absent)
        else:
            value = _made(rule, given := [theirs[source] for source in sources])
            if value is None or value.shape != own.shape:
                shapes[_misfit(sources, given, name, own)] = None
            elif fault := values.fault(sources, given, value, own):
                faults[fault] = None
            else:
                state[name], mapped[name] = value.to(own.dtype).contiguous(), sources
    unused, extra = _left_over(rules, {name: value.numel() for name, value in theirs.items() if name not in used})
    _refuse(what, list(lacking), list(shapes), extra)
    if faults:
        raise DataError(
            f"{what}: {values.first_few(list(faults))}: these are no weights of it; bring the file as its code saved it"
        )
    return state, Accounting(mapped, unused, (*rules.notes, *values.rounded(theirs[name] for name in used)))


def _made(rule: Rule, sources: list[Tensor]) -> Tensor | None:
    """Ours of theirs; None where their shapes do not go together."""
    try:
        return rule.make(*sources)
    except (RuntimeError, IndexError):
        return None


def _left_over(rules: Rules, sizes: dict[str, int]) -> tuple[dict[str, dict[str, int]], list[str]]:
    """{why: those that compute nothing}, and the others."""
    unused: dict[str, dict[str, int]] = {}
    extra = []
    for name, size in sizes.items():
        why = next((each.why for each in rules.unused if re.fullmatch(each.theirs, name)), None)
        if why is None:
            extra.append(name)
        else:
            unused.setdefault(why, {})[name] = size
    return unused, extra


def _misfit(sources: tuple[str, ...], tensors: list[Tensor], name: str, own: Tensor) -> str:
    theirs = " and ".join(f"{source} {list(t.shape)}" for source, t in zip(sources, tensors, strict=True))
    return f"{theirs} is no {name} {list(own.shape)}"


def _refuse(what: str, lacking: list[str], shapes: list[str], extra: list[str]) -> None:
    faults = []
    if lacking:
        faults.append(f"it lacks {_count(lacking)}{_some(lacking)}")
    if shapes:
        faults.append(f"{_count(shapes)} of another shape{_some(shapes)}")
    if extra:
        faults.append(f"it has {_count(extra)} that nothing here is{_some(extra)}")
    if faults:
        raise DataError(
            f"{what}: {'; '.join(faults)}. Give the run the architecture, tasks, backbone and options that the file "
            "was trained with, and prepare data with as many classes"
        )


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _some(names: list[str]) -> str:
    return f" ({values.first_few(names)})"
