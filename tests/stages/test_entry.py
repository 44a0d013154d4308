from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.errors import DataError
from pipeline.params.schema import Params
from stages._entry import run_stage

PARAMS = (Path(__file__).parents[2] / "params.yaml").read_text()


@pytest.fixture(autouse=True)
def params_file(in_tmp: Path) -> Path:
    path = in_tmp / "params.yaml"
    path.write_text(PARAMS)
    return path


def run(main, **options) -> int:
    with pytest.raises(SystemExit) as ended:
        run_stage(main, **options)
    return ended.value.code


def test_a_stage_gets_params_run_and_seed():
    def main(params: Params, name: str, seed: int) -> None:
        got.append((params.run(name).name, seed))

    got: list[tuple[str, int]] = []
    assert run(main, run_and_seed=True, argv=["--run", "normals", "--seed", "3"]) == 0
    assert got == [("normals", 3)]


def test_wrong_params_stop_a_stage_before_it_begins(params_file, capsys):
    def main(params: Params) -> None:
        pytest.fail("must not begin")

    params_file.write_text(PARAMS.replace("epochs:", "epoch:", 1))
    assert run(main, argv=[]) == 2
    printed = capsys.readouterr().err
    assert "training.epoch: unknown key; did you mean training.epochs?" in printed
    assert "Traceback" not in printed


def test_a_persons_mistake_is_told_without_traceback(capsys):
    def main(params: Params) -> None:
        raise DataError("archive is damaged; delete it")

    assert run(main, argv=[]) == 2
    assert capsys.readouterr().err == "archive is damaged; delete it\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU's OpenMP on Linux alone")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "GOMP_SPINCOUNT = '3000'"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT = '7'"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "GOMP_SPINCOUNT = '30000000000'"),
    ],
)
def test_openmp_lets_idle_threads_sleep_unless_somebody_wants_them_to_spin(given, expected):
    code = """
from stages._entry import run_stage
def main():
    import torch
    torch.ones(1).add(1)
run_stage(main, needs_params=False, argv=[])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(Path(__file__).parents[2]), **given}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert expected in ended.stderr


def test_our_own_bug_keeps_its_traceback():
    def main(params: Params) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_stage(main, argv=[])


def test_a_terminated_stage_ends_as_if_interrupted():
    def main(params: Params) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            closed.append(True)

    closed: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run(main, argv=[]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert closed == [True]


LEAVING = """
import atexit, threading, time
from stages._entry import run_stage

class Lasting:
    def __del__(self):
        print("taken apart")

def main(params):
    atexit.register(print, "cleaned up")
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread done"))).start()
    print("main done")
    return 1

lasting = Lasting()
run_stage(main, argv=[])
"""


def test_a_stage_in_a_process_of_its_own_leaves_at_once_and_loses_nothing(root):
    command = [sys.executable, "-c", LEAVING]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stderr
    assert done.stdout.splitlines() == ["main done", "thread done", "cleaned up"]
