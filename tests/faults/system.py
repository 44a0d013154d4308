"""Disks that are full or fail, files that may not be opened, no descriptors left: from the n-th call of a process on.

The run itself ends identical, or refused with one message; the next one, without the fault, ends identical.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from functools import partial

from tests.faults.bench import Bench, repro
from tests.faults.commands import NAME, OPEN, READ, SYNC, WRITE, Fault
from tests.faults.example import EXAMPLE_OF
from tests.faults.kills import DVC, after_mending, again, places
from tests.faults.verdict import FAULT, IDENTICAL, REFUSED, Case, Verdict, left, message, not_clear

# {name: (the calls that fail from the n-th on, what with, whether all that follow do too)}
FAULTS = {
    "full": (WRITE | SYNC, errno.ENOSPC, True),
    "quota": (OPEN | WRITE | NAME, errno.EDQUOT, True),
    "eio": (WRITE | SYNC, errno.EIO, False),
    "unreadable": (READ, errno.EIO, False),
    "descriptors": (OPEN | READ, errno.EMFILE, True),
    "forbidden": (OPEN | NAME, errno.EACCES, True),
    "readonly": (OPEN | NAME | WRITE, errno.EROFS, True),
}


def cases(bench: Bench, count: int, chance: random.Random) -> Iterator[Case]:
    """`count` faults, each kind in turn, three in stages for one in DVC."""
    stages = [stage for stage in EXAMPLE_OF if stage != "train@depth-0"]  # the same as train@semseg-0, and slower
    for i in range(count):
        stage, fault = stages[i % len(stages)], list(FAULTS)[i % len(FAULTS)]
        process = DVC if i % 4 == 3 else stage
        calls = bench.undisturbed(stage, repro(stage), process, FAULTS[fault][0]).calls
        yield case(f"system {fault} {stage} {process} {places(calls, 1, chance)[0]}")


def case(name: str) -> Case:
    """The case of an id, `system FAULT STAGE PROCESS N`."""
    _, fault, stage, process, n = name.split()
    return Case(name, partial(attempt, fault, stage, process, int(n)))


def attempt(name: str, stage: str, process: str, n: int, bench: Bench) -> Verdict:
    """Run with the fault, then without it."""
    kinds, number, stays = FAULTS[name]
    expected = bench.undisturbed(stage, repro(stage)).outcome
    folder = bench.copy(bench.before(stage))
    try:
        done = bench.launcher.run(folder, *repro(stage), fault=Fault(process, n, number, kinds, stays))
        if not done.fired:
            return Verdict(FAULT, "", f"the call was not reached: {message(done)}", done.output)
        where = f"{os.strerror(number)}: {done.what}"
        if done.code != 0 and (problem := not_clear(done)):
            return Verdict(FAULT, where, problem, done.output)
        after = again(bench, folder, repro(stage))
        output = done.output + after.output
        if after.code != 0 and (problem := not_clear(after)):
            return Verdict(FAULT, where, f"the next run: {problem}", output)
        # Where nothing may be removed, or DVC's own file is cut, something stays as after a kill.
        amiss = after.code != 0 or left(folder, expected)
        if amiss and (difference := after_mending(bench, folder, stage, expected)):
            return Verdict(FAULT, where, difference, output)
        return Verdict(REFUSED if done.code else IDENTICAL, where, message(done) if done.code else "", done.output)
    finally:
        bench.remove(folder)
