"""Compare runs in MLflow: python -m stages.ui [--port 5000].

Serves the store beside the project until Ctrl-C, and prints the address of this experiment's runs once it answers.
Where MLFLOW_TRACKING_URI names a server, that one has a page already: only its address is printed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

from pipeline.core.errors import TrackingError
from pipeline.params.schema import Params
from pipeline.tracking.address import is_server, tracking_uri, without_password
from stages._entry import imports, run_stage

_PATIENCE = 120  # seconds; about 15 are usual


def main(params: Params, port: int) -> int:
    """Print where the runs are, and serve them until Ctrl-C; MLflow's exit code, where it ends by itself."""
    if is_server():
        print(_page(tracking_uri(), params.experiment))
        return 0
    base = f"http://127.0.0.1:{port}"
    print(f"MLflow starts at {base}: about 15 s; Ctrl-C stops it", flush=True)
    command = ["ui", "--port", str(port), "--workers", "1", "--backend-store-uri", tracking_uri()]
    # Jobs are evaluations of language models: six more processes, which end in as many tracebacks.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    # In a session of its own, so that Ctrl-C reaches it through us alone, as a request that it takes quietly.
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command], env=environment, start_new_session=True
    ) as server:
        try:
            page = _page(base, params.experiment)
            if _answers(base, server):
                print(f"\nthe runs of {params.experiment}: {page}\n", flush=True)
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _page(base: str, experiment: str) -> str:
    with imports():
        from pipeline.tracking.pages import runs_page
    return without_password(runs_page(base, experiment))


def _answers(base: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; False where it has ended instead. Raises TrackingError after two minutes."""
    end = time.monotonic() + _PATIENCE
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=5):
                return True
        except OSError:
            if time.monotonic() > end:
                raise TrackingError(f"MLflow does not answer at {base} after {_PATIENCE} s; see its messages") from None
            time.sleep(0.2)
    return False


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--port", type=int, default=5000)
    run_stage(main, parser=command)
