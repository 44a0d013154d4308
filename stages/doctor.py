"""Find what kills, edits, moves and disks left behind, and fix it: python -m stages.doctor [--verify] [--fix].

Looks for runs that MLflow still calls RUNNING though their process is gone, results of runs and seeds that params.yaml
no longer has, checkpoints that no training will take up, and a database of MLflow that was moved with the project.
Without --fix nothing is changed. Runs of other machines, and what no stage wrote, are never touched.

With --verify, first reads all results, prepared data, checkpoints and DVC's cache, some seconds a gigabyte, and finds
files that changed since they were written. --fix removes them, here and in the cache: `dvc pull`, where a remote has
them, or `dvc repro` brings them again.

exit code: 0 when nothing was found or all was fixed, 1 when something is left, 2 when it can't be looked into.
"""

from __future__ import annotations

import argparse

from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params, fix: bool, verify: bool) -> int:
    """Print each finding with its remedy, fixed where asked for; 0 when nothing is left, else 1."""
    with imports():
        from pipeline.tools.doctor import examine  # imports torch: only once params are known to be right

    left = 0
    for finding in examine(params, verify):
        if fix and finding.fix:
            finding.fix()
            print(f"fixed: {finding.what}: {finding.remedy}")
        else:
            hint = " [--fix]" if finding.fix else ""
            print(f"found: {finding.what}: {finding.remedy}{hint}")
            left += 1
    print(f"{left} findings left" if left else "nothing left to fix")
    return 1 if left else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--fix", action="store_true", help="fix what is marked [--fix] without it")
    command.add_argument("--verify", action="store_true", help="compare all bytes with what was recorded of them")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser())
