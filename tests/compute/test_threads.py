"""The number of CPU threads is a param and part of a training's identity; the environment does not decide it."""

import signal
import subprocess
import sys

import pytest

from tests import soak
from tests.support.project import ROOT, Project

pytestmark = pytest.mark.e2e

RUNS = ("semseg", "depth")
PARAMS = soak.PARAMS | {
    "data": soak.PARAMS["data"] | {"tasks": ["semseg", "depth"]},
    "training": soak.PARAMS["training"] | {"epochs": 2, "validate_every": 0, "cpu_threads": 1},
    "evaluation": soak.PARAMS["evaluation"] | {"select_on": None, "panels": 0},
    "runs": {task: {"architecture": "single_task", "tasks": [task]} for task in RUNS},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("threads"), PARAMS)
    project.variables = {"PIPELINE_WORKERS": "1"}  # two would take longer to begin than these few samples
    project.dvc("repro", "prepare")
    return project


@pytest.fixture
def fresh(prepared, tmp_path):
    """Makes projects in which nothing is trained yet, by their names."""
    return lambda name: prepared.copy(tmp_path / name)


def weights(project: Project, run: str = "semseg") -> bytes:
    return (project.root / "models" / f"{run}-0" / "weights.safetensors").read_bytes()


def train(project: Project, threads: str) -> bytes:
    """The weights that `train` leaves with OMP_NUM_THREADS, which torch reads when it is imported.

    A fork has it from a process that imported torch with 1.
    """
    project.forks = threads == "1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", threads)
        project.stage("train", "--run", "semseg", "--seed", "0")
    return weights(project)


@pytest.fixture(scope="module")
def expected(prepared, tmp_path_factory):
    """The weights of a training alone with OMP_NUM_THREADS=1."""
    return train(prepared.copy(tmp_path_factory.mktemp("alone") / "1"), "1")


def test_the_same_weights_whatever_the_environment_says(fresh, expected):
    """Of 2 threads; of 4, below."""
    project = fresh("2")
    assert train(project, "2") == expected
    assert_one_thread(project)


def assert_one_thread(project: Project) -> None:
    record = project.json("models/semseg-0/run.json")
    assert (record["device"], record["inputs"]["param cpu_threads"]) == ("CPU, 1 thread", "1")


def test_the_same_weights_side_by_side(fresh, expected, monkeypatch):
    """Forks: that a process of its own heeds the param, whatever `parallel` gives it, is shown above and below."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    project = fresh("pair")
    project.stage("parallel", "--jobs", "2")
    assert weights(project) == expected
    assert project.json("reports/metrics/semseg-0.json")["cpu_threads"] == 1
    assert "Running stage" not in project.dvc("repro"), "what ran side by side is done for `dvc repro` too"


def test_the_same_weights_after_a_kill_and_with_more_threads_around(fresh, expected, monkeypatch):
    project = fresh("killed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    training = soak.Repro(project, "stages.train", "--run", "semseg", "--seed", "0", forks=True)
    training.wait_for_a_checkpoint()
    training.kill_stage(signal.SIGKILL)
    training.end()
    assert train(project, "4") == expected
    assert_one_thread(project)
    assert soak.resumptions(project) == {"semseg-0": 1}


def test_the_param_wins_over_the_environment_and_null_is_what_torch_takes_by_itself():
    """In one process, as torch reads OMP_NUM_THREADS but once: fewer, more, and null whatever was set before."""
    code = (
        "import torch; from pipeline.compute.device import choose_device\n"
        "for threads in (1, 3, None, 4, None):\n"
        "    device = choose_device('float32', True, cpu_threads=threads)\n"
        "    print(device.cpu_threads, torch.get_num_threads(), device.description)"
    )
    one, two, three, four = (f"{n} {n} CPU, {n} thread{'s' if n > 1 else ''}" for n in (1, 2, 3, 4))
    assert run_python(code, "2").splitlines() == [one, three, two, four, two]


def run_python(code: str, omp: str) -> str:
    environment = {"OMP_NUM_THREADS": omp, "PIPELINE_DEVICE": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr
    return done.stdout.strip()
