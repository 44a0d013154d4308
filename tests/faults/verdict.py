"""What a case ended in, decided by what is left and what was printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.bench import Bench
from tests.faults.commands import Done
from tests.faults.outcome import differences, outcome

IDENTICAL, REFUSED, FAULT = "identical", "refused", "FAULT"
TRACEBACK = "Traceback (most recent call last)"
REFUSES = 2  # a stage's exit code after its one message
# What DVC says of its own: a reason that the system gave, or a file of the project with what is wrong in it.
SAYS_WHAT = re.compile(
    r"No space left|Disk quota|Input/output error|[Tt]oo many open files|Permission denied|Read-only"
    r"|ERROR: .*(Unable to acquire lock|dvc\.(lock|yaml)|params\.yaml|\.dvc/|(data|models|reports)/\w)"
    r"|'.*' (validation failed|is invalid)"
)
SHOWN = 4  # differences that a table names


@dataclass(frozen=True)
class Verdict:
    """identical: as if nothing had happened. refused: one clear message, nothing wrong or lost. FAULT: anything else.

    where: what the fault struck. why: what tells it.
    """

    kind: str
    where: str = ""
    why: str = ""
    output: str = ""


@dataclass(frozen=True)
class Case:
    """One fault. id: names it for good, whatever the seed: `python -m tests.faults --case ID`."""

    id: str
    attempt: Callable[[Bench], Verdict]


def not_clear(done: Done) -> str | None:
    """Why what a failed command printed is not one clear message; None where it is."""
    if done.code is None:
        return f"it had not ended after {done.seconds:.0f} s"
    if done.code < 0:
        return f"ended by signal {-done.code}"
    if TRACEBACK in done.output:
        return f"a traceback: {last_line(done.output)}"
    stages = {stage: code for stage, code in done.stages.items() if code}
    if bad := {stage: code for stage, code in stages.items() if code != REFUSES}:
        return f"exit codes {bad}"
    if done.command[0] != "dvc" and done.code != REFUSES:
        return f"exit code {done.code}"
    if not stages and done.command[0] == "dvc" and not SAYS_WHAT.search(done.output):
        return f"DVC does not say what is wrong: {message(done)}"
    if not message(done):
        return "nothing is printed"
    return None


def message(done: Done) -> str:
    """What a failed command says, without what DVC prints as it goes."""
    usual = ("Stage '", "Running stage '", "> python", "Updating lock", "Verifying", "Generating", "To track", "\tgit")
    lines = [line for line in done.output.splitlines() if line.strip() and not line.startswith(usual)]
    lines = [line for line in lines if "had been killed. Auto removed it" not in line]
    said = [line for line in lines if not re.match("ERROR: failed to reproduce '.*': failed to run", line)] or lines
    return " / ".join(said[-3:])


def last_line(text: str) -> str:
    at = text.index(TRACEBACK)
    return next((line for line in text[at:].splitlines()[1:] if line[:1].strip()), "")


def left(folder: Path, expected: dict[str, Any], ignoring: Collection[str] = ()) -> str | None:
    """How a project differs from what is expected; None where it does not. ignoring: beginnings of names."""
    prefixes = tuple(ignoring)
    found = [each for each in differences(expected, outcome(folder)) if not (prefixes and each.startswith(prefixes))]
    return f"{len(found)} differences: {'; '.join(found[:SHOWN])}" if found else None
