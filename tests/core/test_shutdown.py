"""Real stages in processes of their own, asked to end by signals and by the loss of the DVC that started them."""

import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

# A stage that writes what happens to it into a file: `python stage.py SCENARIO`.
STAGE = """
import hashlib, os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from pipeline.core import shutdown
from stages._entry import run_stage

scenario = sys.argv[1]
out = open("said", "a", buffering=1)

def main(params):
    if scenario == "steps":
        with shutdown.deferred():
            print("begun", file=out)
            while not shutdown.requested():
                time.sleep(0.01)
            print("step finished", file=out)
        print("never", file=out)
    elif scenario == "second signal":
        with shutdown.deferred():
            print("begun", file=out)
            while not shutdown.requested():
                time.sleep(0.01)
            print("asked once", file=out)
            time.sleep(60)
    elif scenario == "one long call":
        shutdown._watch.grace_seconds = 0.5
        with shutdown.on_forced_exit(lambda: print("last words", file=out)), shutdown.deferred():
            print("begun", file=out)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # about ten minutes in C
    elif scenario == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(60)
        os.kill(child, signal.SIGTERM)  # at once: it may not have run a line of Python yet
        os.waitpid(child, 0)
        time.sleep(0.5)
        print("begun", "asked" if shutdown.requested() else "not asked", file=out)
    elif scenario == "worker":
        child = os.fork()
        if child == 0:
            time.sleep(60)
        time.sleep(0.5)
        os.killpg(0, signal.SIGHUP)  # the terminal is closed
        time.sleep(0.5)
        alive = os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGKILL)
        print("begun", "worker lives" if alive else "worker is gone", file=out)
    elif scenario == "pool":
        with ThreadPoolExecutor(1) as threads:  # as pools of processes: what waits is worked off at exit
            for _ in range(20):
                threads.submit(time.sleep, 3)
            print("begun", file=out)
            threads.shutdown = lambda *_, **__: None  # not in the with statement's own end
            time.sleep(60)
    else:
        try:
            print("begun", file=out)
            time.sleep(60)
        finally:
            print("cleaned up", file=out)

run_stage(main, argv=[])
"""


# Stands for DVC: it gives DVC_STAGE to what it starts, through a shell that stays.
STARTER = """
import os, subprocess, sys
subprocess.run(["sh", "-c", f"{sys.executable} stage.py work; true"], env=os.environ | {"DVC_STAGE": "train@x"})
"""


def heed() -> None:
    """Whoever runs these tests in the background may have them ignore both."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(in_tmp, root, monkeypatch):
    """Starts a command that runs the stage, and waits until it is at work."""
    shutil.copy(root / "params.yaml", "params.yaml")
    (in_tmp / "stage.py").write_text(STAGE)
    (in_tmp / "said").touch()
    (in_tmp / "starter.py").write_text(STARTER)
    monkeypatch.setenv("PYTHONPATH", str(root))
    started = []

    def start(*command: str) -> psutil.Popen:
        process = psutil.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
        started.append(process)
        wait_for("begun")
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def said() -> list[str]:
    return open("said").read().splitlines()


def wait_for(word: str) -> None:
    deadline = time.monotonic() + 60
    while not any(word in line for line in said()):
        assert time.monotonic() < deadline, said()
        time.sleep(0.01)


def stage(scenario: str) -> list[str]:
    return [sys.executable, "stage.py", scenario]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stage_is_interrupted_at_once_and_cleans_up(start, number):
    process = start(*stage("work"))
    process.send_signal(number)
    assert process.wait() == 130 and said() == ["begun", "cleaned up"]
    assert process.stderr.read() == "interrupted\n"


def test_a_step_is_finished_first(start):
    process = start(*stage("steps"))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130 and said() == ["begun", "step finished"]


def test_a_second_signal_does_not_wait_for_the_step(start):
    process = start(*stage("second signal"))
    process.send_signal(signal.SIGTERM)
    wait_for("asked once")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130


@pytest.mark.slow
def test_a_call_that_python_can_not_interrupt_is_left_after_a_while(start):
    process = start(*stage("one long call"))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130 and said() == ["begun", "last words"]
    assert "took too long" in process.stderr.read()


@pytest.mark.slow
def test_a_signal_to_a_forked_child_is_not_one_to_the_stage(start):
    assert start(*stage("fork")).wait() == 0 and said() == ["begun not asked"]


@pytest.mark.slow
def test_a_worker_lives_on_with_a_stage_that_ignores_the_end_of_its_terminal(start):
    process = start("setsid", "nohup", *stage("worker"))
    assert process.wait() == 0 and said() == ["begun worker lives"]


@pytest.mark.slow
def test_what_waits_in_a_pool_is_not_worked_off_first(start):
    process = start(*stage("pool"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 130


@pytest.mark.slow
def test_what_is_ignored_stays_ignored(start):
    process = start("nohup", *stage("work"))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert said() == ["begun"]
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130


@pytest.mark.parametrize("killed", ["DVC", "the shell"])
@pytest.mark.slow
def test_a_stage_ends_when_dvc_or_what_is_in_between_is_gone(start, killed):
    dvc = start(sys.executable, "starter.py")
    shell, python = dvc.children(recursive=True)
    (dvc if killed == "DVC" else shell).kill()
    psutil.wait_procs([python], timeout=30)
    assert not python.is_running() and said() == ["begun", "cleaned up"]
