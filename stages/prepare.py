"""DVC stage `prepare`: pack the dataset of params.yaml into the memory-mapped store."""

from __future__ import annotations

from pipeline.core import paths
from pipeline.datasets.packing_inputs import packing_inputs
from pipeline.params.load import load_params
from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params) -> None:
    """Pack the dataset that params name."""
    with imports():
        from pipeline.datasets.preparation import prepare

    inputs = packing_inputs(params.data)
    info = prepare(paths.RAW, paths.PREPARED, params.data)
    inputs.check_unchanged(packing_inputs(load_params().data))
    paths.write_json(paths.PACKED_FROM, {"data": [info.digest], "inputs": inputs.lines})  # `dvc metrics` skips lists
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    print(f"prepared {info.dataset}: {counts}; labels: {', '.join(info.tasks)}; digest {info.digest[:12]}")


if __name__ == "__main__":
    run_stage(main)
