"""Search values for runs of params.yaml: python -m stages.search [RUN ...] [--apply] [--restart].

Each run is a study of trials. What is tried, and how a trial is judged, says the section `search` of params.yaml. Start
the command again to continue after a kill, and several times at once for several workers of the same studies. It prints
the best trials of each run, and the best values as a diff of params.yaml.
"""

from __future__ import annotations

import argparse

from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params, runs: list[str], apply: bool = False, restart: bool = False) -> None:
    """Search the runs, one after the other. apply: write the best values. restart: remove the studies first."""
    with imports():
        from pipeline.core.errors import SearchError
        from pipeline.search import summary
        from pipeline.search.run import opened, runs_to_search, work

    for name in runs_to_search(params, runs):
        with opened(params, name, restart) as study:
            work(params, name, study)
            print(summary.table(study, params.search.objective))
            if not study.is_alone():
                rest = f"{study.place}: other workers still train some of its trials"
                if apply:
                    raise SearchError(f"{rest}: nothing was written; give --apply again when they have ended")
                print(f"{rest}: run it again to see the end")
                continue
            values = summary.best_values(study)
            if summary.is_as_it_stands(params, name, values):
                print(f"{name}: no trial did better than the run as it stands")
            if edit := summary.edit_of(params, name, study, values):
                print(summary.diff(*edit))
                if apply:
                    summary.apply(*edit)
                    print(f"written to params.yaml: {name}")


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("runs", nargs="*", metavar="RUN", help="names in runs; all of them unless given")
    command.add_argument("--apply", action="store_true", help="write the best values into params.yaml")
    command.add_argument("--restart", action="store_true", help="remove what there is of the studies, and begin anew")
    run_stage(main, parser=command)
