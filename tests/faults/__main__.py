"""Try faults and print what each ended in: python -m tests.faults [--kinds kill ...] [--seed N] [--case ID].

`make test-faults` is the long form; tests/e2e/test_fault_harness.py the short one. A case's id names it whatever the
seed, so that one can be tried again alone: --case "kill train@semseg-0 dvc 17" --show prints what the last command
said.
Exit code 1 where a case ended in a FAULT.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tests.faults import corruption, kills, servers, system
from tests.faults.bench import Bench
from tests.faults.commands import Launcher
from tests.faults.verdict import FAULT, Case, Verdict

KINDS = {"kill": kills, "corrupt": corruption, "system": system, "server": servers}
COUNTS = {"kill": 120, "corrupt": 80, "system": 40, "server": 12}  # of the long form


def tried(bench: Bench, cases: Iterator[Case], show: bool = False) -> Iterator[tuple[Case, Verdict]]:
    """Each case with its verdict, printed as a row of a table."""
    for case in cases:
        began = time.monotonic()
        try:
            verdict = case.attempt(bench)
        except Exception as error:  # of the harness: the other cases are tried all the same
            verdict = Verdict(FAULT, "", f"the harness failed: {type(error).__name__}: {error}")
        row = f"{verdict.kind:9}  {time.monotonic() - began:5.1f} s  {case.id}"
        print(f"{row}  [{verdict.where}]  {verdict.why}".rstrip(), flush=True)
        if show:
            print(verdict.output)
        yield case, verdict


def drawn(bench: Bench, kinds: list[str], count: int | None, seed: int, skip: int) -> Iterator[Case]:
    for kind in kinds:
        cases = KINDS[kind].cases(bench, count or COUNTS[kind], random.Random(f"{seed} {kind}"))
        yield from islice(cases, skip, None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--count", type=int, help=f"cases of each kind; otherwise {COUNTS}")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of each kind, as after an interruption")
    parser.add_argument("--seed", type=int, default=0, help="of the places and the bytes")
    parser.add_argument("--case", action="append", help="the id of one case to try alone; may be repeated")
    parser.add_argument("--show", action="store_true", help="print what the last command of each case printed")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the launcher and the server end too
    began, counts = time.monotonic(), Counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name).resolve()
        with Launcher(folder) as launcher, Bench(folder, launcher) as bench:
            if arguments.case:
                cases = iter([KINDS[each.split()[0]].case(each) for each in arguments.case])
            else:
                cases = drawn(bench, arguments.kinds, arguments.count, arguments.seed, arguments.skip)
            for case, verdict in tried(bench, cases, arguments.show):
                counts[case.id.split()[0], verdict.kind] += 1
    for (kind, verdict), number in sorted(counts.items()):
        print(f"{kind:8} {verdict:9} {number:4}")
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    return int(any(verdict == FAULT for _, verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
