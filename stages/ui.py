"""Compare runs in MLflow: python -m stages.ui [--port 5000].

Serves the store beside the project until Ctrl-C, and prints the address of this experiment's runs once it answers.
Where MLFLOW_TRACKING_URI names a server, that one has a page already: only its address is printed.
"""

from __future__ import annotations

import argparse

from pipeline.params.schema import Params
from pipeline.tracking.address import is_server, tracking_uri, without_password
from stages._entry import imports, run_stage


def main(params: Params, port: int) -> int:
    """Print where the runs are, and serve them until Ctrl-C; MLflow's exit code, where it ends by itself."""
    with imports():
        from pipeline.tools.mlflow_ui import serve
        from pipeline.tracking.pages import runs_page

    if is_server():
        print(without_password(runs_page(tracking_uri(), params.experiment)))
        return 0
    return serve(params.experiment, port)


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--port", type=int, default=5000)
    run_stage(main, parser=command)
