"""What a published row is, and what rows of a dataset have in common, so that results can be compared.

A recipe is a mapping of values of params' `training` section, augmentation key by key: how published networks were
trained. `Setting.recipe` knows it for each network; a run of ours, and a row of other authors, is comparable when it
was trained by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.core import names
from pipeline.params.schema import ResolvedRun

Recipe = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """One published row. scores: primary metric by task. delta_m: against its own authors' baselines.

    architecture: what ours is called; None for a network that isn't here. auxiliary_tasks: trained, not scored.
    recipe: what is known to differ from the setting's; None: nobody says how it was trained.
    apart: what keeps even a network of the same recipe from being compared with it, and no training value expresses.
    but: what of a comparable row does not compare.
    """

    method: str
    architecture: str | None
    scores: dict[str, float]
    source: str
    delta_m: float | None = None
    auxiliary_tasks: tuple[str, ...] = ()
    backbone: str = "HRNet-18"
    recipe: Recipe | None = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    but: str = ""

    def verdict(self, setting: Setting) -> str:
        """Whether it has the setting that rows of a dataset must have in common, in words: yes, or no and why not."""
        if reasons := list(self.not_comparable_because(setting)):
            return f"no: {'; '.join(reasons)}"
        but = [self.but] if self.but else []
        but += ["how it was trained is not stated"] if self.recipe is None else []
        return ", but ".join(["yes", "; ".join(but)]) if but else "yes"

    def not_comparable_because(self, setting: Setting) -> Iterator[str]:
        """How its network and training differ from the published setting, a phrase each; none where they agree."""
        if self.backbone != (setting.network or "HRNet-18"):
            yield f"backbone {self.backbone} instead of HRNet-18"
        yield from self.apart
        if self.recipe:
            trained = frozenset((*self.scores, *self.auxiliary_tasks))
            yield from differences(self.recipe, setting.recipe(self.architecture, trained))

    def is_of(self, run: ResolvedRun) -> bool:
        """Whether it is of the network of `run`, trained for the same tasks; a single task may be any of its own."""
        if self.architecture != run.architecture:
            return False
        if run.architecture == names.SINGLE_TASK:
            return run.tasks[0] in self.scores
        return set(self.scores) == set(run.tasks) and set(self.auxiliary_tasks) == set(run.auxiliary_tasks)


@dataclass(frozen=True)
class Setting:
    """What the rows of a dataset have in common, and ours must have to be compared with them.

    usual: the recipe of all networks but those of `special`, (architecture, tasks, what is different); tasks None: any.
    network: that of all rows, where it is none of ours, so that nothing compares.
    """

    usual: Recipe
    special: tuple[tuple[str, tuple[str, ...] | None, Recipe], ...]
    rows: tuple[Published, ...]
    network: str = ""

    def recipe(self, architecture: str | None, tasks: frozenset[str]) -> Recipe:
        """How networks of this architecture were trained for these tasks."""
        recipe = dict(self.usual)
        for name, only_for, different in self.special:
            if name == architecture and (only_for is None or set(only_for) == tasks):
                recipe |= different
        return recipe


def differences(ours: Recipe, published: Recipe, prefix: str = "") -> Iterator[str]:
    """Each value that both have and that is not the same."""
    for key, value in published.items():
        if key in ours and isinstance(value, Mapping):
            yield from differences(ours[key], value, f"{prefix}{key}.")
        elif key in ours and ours[key] != value:
            yield f"{prefix}{key} {text(ours[key])} instead of {text(value)}"


def text(value: object) -> str:
    """A value as params.yaml has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower().replace("none", "null")
