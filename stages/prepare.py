"""DVC stage `prepare`: pack the dataset of params.yaml into the memory-mapped store."""

from __future__ import annotations

from pipeline import paths
from pipeline.params import Params, load_params
from pipeline.provenance import Inputs, collect_inputs
from stages._entry import imports, run_stage


def main(params: Params) -> None:
    with imports():
        from pipeline.datasets.preparation import prepare

    inputs = _inputs(params)
    info = prepare(paths.RAW, paths.PREPARED, params.data)
    inputs.check_unchanged(_inputs(load_params()))
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    print(f"prepared {info.dataset}: {counts}; labels: {', '.join(info.tasks)}; digest {info.digest[:12]}")


def _inputs(params: Params) -> Inputs:
    """What decides the labels, as DVC will record it when the stage ends."""
    return collect_inputs("prepare", params.data.model_dump(), "")


if __name__ == "__main__":
    run_stage(main)
