"""DVC stage `adoption`: the code that maps the names of adopted checkpoints, for the runs that have any."""

from __future__ import annotations

from pipeline.core import paths
from pipeline.core.provenance import adoption_code
from pipeline.params.schema import Params
from stages._entry import run_stage


def main(params: Params) -> None:
    """Write models/adoption.json, {runs: {run: digest of the code}}; null where a run is trained.

    Training depends on its own run's entry alone, so an edit of that code reruns what it can change and trains nothing.
    """
    digest = adoption_code()
    paths.write_json(
        paths.ADOPTION, {"runs": {name: digest if run.adopted else None for name, run in params.runs.items()}}
    )


if __name__ == "__main__":
    run_stage(main)
