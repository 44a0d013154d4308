"""Follow a result to all that belongs to it: python -m stages.trace <metrics file | model folder | MLflow run id>.

Finds the metrics file, the model and the MLflow run of one training, when and on what it was done, and says whether the
working tree, as it is, would train the same again. What differs is listed: recorded value -> value now. In a fresh
clone a committed metrics file is enough: it leads to the commits of the code and of the result.

exit code: 0 when it would, 1 when something differs, 2 when it is unknown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.params.schema import Params
from stages._entry import imports, run_stage

if TYPE_CHECKING:
    from pipeline.tools.trace import Trace

_SHORT = 12  # characters of a digest that people compare


def main(params: Params, what: str, as_json: bool) -> int:
    """Print where `what` came from; 0 when it is reproducible, else 1."""
    with imports():
        from pipeline.tools.trace import trace  # imports torch: only once params are known to be right

    found = trace(params, what)
    print(json.dumps(found.as_object(), indent=2) if as_json else "\n".join(lines(found)))
    return 0 if found.reproducible else 1


def lines(found: Trace) -> Iterator[str]:
    """A trace for people."""
    yield f"run {found.run}, seed {found.seed}"
    yield f"  metrics file    {found.metrics_file or '-'}"
    yield f"  model           {found.model or '-'}"
    if found.mlflow:
        restored = (
            ", restored: it scored weights that were trained elsewhere, or under another name"
            if found.mlflow["restored"]
            else ""
        )
        yield f"  MLflow run      {found.mlflow['id']}{restored}"
        yield f"    experiment    {found.mlflow['experiment']}"
        yield f"    status        {found.mlflow['status']}"
    else:
        yield "  MLflow run      -"
    for name, value in found.recorded.items():
        yield f"  {name:15} {value}"
    for note in found.notes:
        yield f"note: {note}"
    for mismatch in found.mismatches:
        yield f"differs: {mismatch}"
    for name, (recorded, now) in found.differences.items():
        yield f"differs: {name}: {_told(name, recorded)} -> {_told(name, now)}"
    if found.reproducible:
        yield "reproducible: every input of this training is the same now"


def _told(name: str, value: str | None) -> str:
    if value is None:
        return "(none)"
    name = name.removeprefix("data: ")
    return value[:_SHORT] if name.startswith("file ") or name in ("data", "archive", "own data") else value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("what", help="reports/metrics/<run>-<seed>.json, models/<run>-<seed> or an MLflow run's id")
    command.add_argument("--json", dest="as_json", action="store_true", help="print one object, values in full")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser())
