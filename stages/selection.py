"""DVC stage `selection`: the code that chooses which epoch's weights are kept, where evaluation.select_on asks."""

from __future__ import annotations

from pipeline.core import paths
from pipeline.core.provenance import selection_inputs
from pipeline.params.schema import Params
from stages._entry import run_stage


def main(params: Params) -> None:
    """Write models/selection.json, on which training depends: what `selection_inputs` gives."""
    paths.write_json(paths.SELECTION, selection_inputs(params.evaluation.select_on))


if __name__ == "__main__":
    run_stage(main)
