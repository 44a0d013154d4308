"""Kills at the n-th system call by which a stage, or DVC, changes a file: the next run ends as if there was none."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.bench import Bench, repro
from tests.faults.commands import KILL, Done, Fault
from tests.faults.example import EXAMPLE_OF
from tests.faults.verdict import FAULT, IDENTICAL, REFUSED, Case, Verdict, left, message, not_clear

DVC = "dvc"
SETTLES = 2.5  # seconds after which doctor takes a file of DVC's for left


def cases(bench: Bench, count: int, chance: random.Random) -> Iterator[Case]:
    """`count` kills, evenly over all stages and, as many again as one stage has in each, DVC as it runs them."""
    processes = [(stage, process) for stage in EXAMPLE_OF for process in (stage, DVC)]
    for i, (stage, process) in enumerate(processes):
        share = count * (i + 1) // len(processes) - count * i // len(processes)
        calls = bench.undisturbed(stage, repro(stage), process).calls
        for n in places(calls, share, chance):
            yield case(f"kill {stage} {process} {n}")


def case(name: str) -> Case:
    """The case of an id, `kill STAGE PROCESS N`."""
    _, stage, process, n = name.split()
    return Case(name, partial(attempt, stage, process, int(n)))


def places(calls: Sequence[str], count: int, chance: random.Random) -> list[int]:
    """`count` numbers of calls, from 1: of each file about as many, since most calls are of MLflow's database."""
    kinds: dict[str, list[int]] = {}
    for n, call in enumerate(calls, 1):
        kinds.setdefault(re.sub(r"[0-9a-f]{8,}|\.\w{8}\b|\d+", "#", call), []).append(n)
    chosen: list[int] = []
    while len(chosen) < min(count, len(calls)):
        for numbers in chance.sample(list(kinds.values()), len(kinds)):
            if numbers and len(chosen) < count:
                chosen.append(numbers.pop(chance.randrange(len(numbers))))
    return sorted(chosen)


def attempt(stage: str, process: str, n: int, bench: Bench) -> Verdict:
    """Kill, run again what `make repro` runs, and look at all that is left."""
    expected = bench.undisturbed(stage, repro(stage)).outcome
    folder = bench.copy(bench.before(stage))
    try:
        killed = bench.launcher.run(folder, *repro(stage), fault=Fault(process, n, KILL))
        if not killed.fired:
            return Verdict(FAULT, "", f"the call was not reached: {message(killed)}", killed.output)
        if killed.code is None:
            return Verdict(FAULT, killed.what, "after the kill something did not end", killed.output)
        done = again(bench, folder, repro(stage))
        if done.code == 0:
            difference = left(folder, expected) and after_mending(bench, folder, stage, expected)
            return Verdict(FAULT if difference else IDENTICAL, killed.what, difference or "", done.output)
        problem = not_clear(done) or after_mending(bench, folder, stage, expected)
        return Verdict(FAULT if problem else REFUSED, killed.what, problem or message(done), done.output)
    finally:
        bench.remove(folder)


def again(bench: Bench, folder: Path, command: Sequence[str], **how: Any) -> Done:
    """What a user does next: `make repro`, which checks first. how: as `Launcher.run` takes it."""
    done = bench.launcher.run(folder, "stages.check", **how)
    return bench.launcher.run(folder, *command, **how) if done.code == 0 else done


def after_mending(bench: Bench, folder: Path, stage: str, expected: dict[str, Any]) -> str | None:
    """Why a project is not as expected after what messages say, and `doctor --fix`; None where it is."""
    time.sleep(SETTLES)
    mended = bench.launcher.run(folder, "stages.doctor", "--fix")
    if "`rm dvc.lock`" in mended.output:
        (folder / "dvc.lock").unlink()
        bench.launcher.run(folder, "stages.doctor", "--fix")
    done = again(bench, folder, repro(stage))
    if done.code != 0:
        return f"the remedy does not help: {message(done)}"
    return left(folder, expected)
