"""What each run costs for one image, without any data: python -m stages.cost [run ...] [--json] [--params FILE].

M: million parameters. GMAC: billion multiply-accumulates of a forward pass. activations: memory that a training step
holds for the backward pass, float32. pipeline/evaluation/cost.py says what exactly is counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.core import paths
from pipeline.params.schema import Params, ResolvedRun
from stages._entry import imports, run_stage

if TYPE_CHECKING:
    from pipeline.evaluation.cost import Cost

HEAD = ("run", "architecture", "tasks", "backbone", "input", "M", "GMAC", "activations")
_NUMBERS = 4  # the last columns, aligned to the right


def main(params: Params, runs: Sequence[str], as_json: bool, file: str) -> None:
    """Print the cost of the named runs, or of all."""
    with imports():
        import torch  # once params are known to be right

        from pipeline.evaluation.cost import cost_of

    torch.set_num_threads(1)  # what is computed is tiny: on a busy machine threads would mostly wait for each other
    chosen = [params.run(name) for name in dict.fromkeys(runs or params.all_runs)]
    costs = [(run, cost_of(run, params.data)) for run in chosen]
    if as_json:
        print(json.dumps([as_object(run, cost) for run, cost in costs], indent=2))
    else:
        print(table([HEAD, *(as_row(run, cost) for run, cost in costs)]))


def as_object(run: ResolvedRun, cost: Cost) -> dict[str, object]:
    """One line of --json, in plain units."""
    return {
        "run": run.name,
        "architecture": run.architecture,
        "tasks": run.tasks,
        "auxiliary_tasks": run.auxiliary_tasks,
        "backbone": run.training.backbone,
        "input_size": run.training.input_size,
        **asdict(cost),
    }


def as_row(run: ResolvedRun, cost: Cost) -> tuple[str, ...]:
    """One row of the table."""
    extra = f" + {', '.join(run.auxiliary_tasks)}" if run.auxiliary_tasks else ""
    return (
        run.name,
        run.architecture,
        ", ".join(run.tasks) + extra,
        run.training.backbone,
        "x".join(map(str, run.training.input_size)),
        f"{cost.parameters / 1e6:.2f}",
        f"{cost.macs / 1e9:.2f}",
        f"{cost.activation_bytes / 2**20:.1f} MiB",
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(widths) - _NUMBERS

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(cells))

    return "\n".join(map(line, rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("runs", nargs="*", metavar="run", help="names in the params file's runs; all unless given")
    command.add_argument("--json", dest="as_json", action="store_true", help="print a list of objects, in plain units")
    command.add_argument("--params", dest="file", default=str(paths.PARAMS), metavar="FILE")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser())
