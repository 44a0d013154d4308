"""Trainings side by side, and one in two processes, by the real DVC: how they end, and that none outlives a kill."""

import os
import time

import pytest
import yaml

from pipeline.errors import ParamsError
from pipeline.parallel import make_slots
from tests import soak
from tests.project import Project

PARAMS = soak.PARAMS | {
    "data": soak.PARAMS["data"] | {"tasks": ["semseg", "depth"]},
    # Long, since DVC's locks let one begin seconds after the other.
    "training": soak.PARAMS["training"] | {"epochs": 20, "validate_every": 0},
    "checkpoint_minutes": 0.02,
    "evaluation": soak.PARAMS["evaluation"] | {"select_on": None},
    "runs": {
        "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
        "wrong": {"architecture": "single_task", "tasks": ["depth"], "training": {"lr": 1e20}},
    },
}
SHORT = PARAMS | {"training": PARAMS["training"] | {"epochs": 2}}
PARALLEL = ("stages.parallel", "--jobs", "2")


def statuses(project: Project) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in soak.runs_of(project)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("parallel"), PARAMS)
    project.dvc("repro", "prepare")
    return project


@pytest.fixture
def project(prepared, tmp_path):
    """A project in which nothing is trained yet."""
    return prepared.copy(tmp_path / "project")


def test_two_at_a_time_end_with_what_started_them_and_one_that_fails_stops_no_other(project):
    """How all of it ends where nothing goes wrong, is seen in test_pipeline.py."""
    repro = soak.Repro(project, *PARALLEL)
    while len(list(project.root.glob(".runs/train/*/checkpoint.pt"))) < 2:
        assert repro.process.poll() is None, repro.output.read_text()
        time.sleep(0.01)
    repro.process.kill()
    repro.end()
    assert statuses(project) == {"semseg-0": "KILLED", "depth-0": "KILLED"}

    again = soak.Repro(project, *PARALLEL)
    assert again.end(within=400) == 2
    assert statuses(project) == {"semseg-0": "FINISHED", "depth-0": "FINISHED", "wrong-0": "FAILED"}
    assert {project.json(f"models/{run}-0/run.json")["resumed"] for run in ("semseg", "depth")} == {1}
    told = again.output.read_text()
    assert "[wrong-0] the loss of depth is" in told
    assert told.endswith("failed, see above: train@wrong-0. What succeeded beside them is recorded\n")


def test_two_processes_train_one_network_by_torchrun(project):
    """That they go on to the same bits, is seen in test_distributed.py."""
    (project.root / "params.yaml").write_text(yaml.safe_dump(SHORT))
    project.launcher = "torchrun --standalone --nproc-per-node=2"
    repro = soak.Repro(project)
    repro.wait_for_a_checkpoint()
    soak.KILLS["SIGKILL to DVC"](repro)
    assert repro.end() != 0
    assert statuses(project) == {"semseg-0": "KILLED"}
    repro = soak.Repro(project)
    assert repro.end(within=300) == 0, repro.output.read_text()
    assert statuses(project) == {"semseg-0": "FINISHED"}
    record = project.json("models/semseg-0/run.json")
    assert (record["resumed"], record["processes"]) == (1, 2)
    assert project.json("reports/metrics/semseg-0.json")["tasks"] == record["last_validation"]


@pytest.mark.parametrize(
    ("environment", "jobs", "gpus", "slots"),
    [
        ({}, 3, 2, [{"PIPELINE_DEVICE": "cuda:0"}, {"PIPELINE_DEVICE": "cuda:1"}, {"PIPELINE_DEVICE": "cuda:0"}]),
        ({}, 3, 0, 3 * [{"OMP_NUM_THREADS": "2"}]),
        ({}, 16, 0, 16 * [{"OMP_NUM_THREADS": "1"}]),
        ({"OMP_NUM_THREADS": "4"}, 2, 0, [{}, {}]),
        ({"PIPELINE_DEVICE": "cuda:1"}, 2, 4, [{}, {}]),
        ({"PIPELINE_DEVICE": "cpu"}, 2, 4, 2 * [{"OMP_NUM_THREADS": "4"}]),
        ({"PIPELINE_DEVICE": "cpu", "OMP_NUM_THREADS": "3"}, 2, 4, [{}, {}]),
        ({"OMP_NUM_THREADS": "4"}, 1, 1, [{"PIPELINE_DEVICE": "cuda:0"}]),
    ],
)
def test_slots_share_out_what_there_is(monkeypatch, environment, jobs, gpus, slots):
    monkeypatch.setattr(os, "environ", environment)
    assert make_slots(jobs, gpus, 8) == slots


def test_no_jobs_at_all_are_refused():
    with pytest.raises(ParamsError, match="--jobs 0: at least 1"):
        make_slots(0, 0, 8)
