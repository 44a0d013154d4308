"""MLflow's own web interface for the store beside the project, opened on the runs of an experiment."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

from pipeline.core.console import warn
from pipeline.core.errors import ParamsError
from pipeline.tracking.address import tracking_uri
from pipeline.tracking.pages import runs_page

_PATIENCE = 120.0  # seconds until a word that it takes long; about 15 are usual
# Jobs are evaluations of language models: six more processes, which end in as many tracebacks.
_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(experiment: str, port: int) -> int:
    """Serve until Ctrl-C, and print the address of the experiment's runs once it answers.

    Returns 0 after Ctrl-C, else MLflow's exit code. Raises ParamsError for a port that another program uses, and
    TrackingError where the store can't be read.
    """
    _refuse_used(port)
    base = f"http://127.0.0.1:{port}"
    print(f"MLflow starts at {base}: about 15 s; Ctrl-C stops it", flush=True)
    page = runs_page(base, experiment)  # before MLflow opens the store: two that create it at once spoil it
    command = ["ui", "--port", str(port), "--workers", "1", "--backend-store-uri", tracking_uri()]
    # In a session of its own, so that Ctrl-C reaches it through us alone, as a request that it takes quietly.
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command], env=_ENVIRONMENT | os.environ, start_new_session=True
    ) as server:
        try:
            if _answers(base, server):
                print(f"\nthe runs of {experiment}: {page}\n", flush=True)
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _refuse_used(port: int) -> None:
    """So that nobody looks at another project's runs."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ParamsError(f"port {port} can't be used ({error}): choose another, `make ui PORT=5001`") from None


def _answers(base: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; False where it has ended instead."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says
    slow = time.monotonic() + _PATIENCE
    while server.poll() is None:
        try:
            with direct.open(f"{base}/health", timeout=5):
                return True
        except (OSError, http.client.HTTPException):
            if time.monotonic() > slow:
                warn(f"MLflow does not answer at {base} yet: it may bring an old database up to date")
                slow += _PATIENCE
            time.sleep(0.2)
    return False
