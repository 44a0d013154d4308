"""Trainings side by side, and one in two processes, by the real DVC: how they end, and that none outlives a kill."""

import os
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.core import paths, workers
from pipeline.core.errors import ParamsError
from pipeline.core.workers import cores, worker_count
from pipeline.params.load import parse_params
from pipeline.tools.parallel import WORKERS, default_jobs, longest_first, make_slots, progress
from tests import soak
from tests.support.blank_store import put_blank_store
from tests.support.project import ALONE, Project

pytestmark = pytest.mark.e2e

PARAMS = soak.PARAMS | {
    "data": soak.PARAMS["data"] | {"tasks": ["semseg", "depth"]},
    "training": soak.PARAMS["training"] | {"backbone": "test_efficientnet", "epochs": 12, "validate_every": 0},
    "checkpoint_minutes": 10,  # at the end of each epoch
    "evaluation": soak.PARAMS["evaluation"] | {"select_on": None},
    "runs": {
        "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
        "wrong": {"architecture": "single_task", "tasks": ["depth"], "training": {"lr": 1e20}},
    },
}
SHORT = PARAMS | {"training": soak.PARAMS["training"] | {"epochs": 2, "validate_every": 0}, "checkpoint_minutes": 0.02}
LONG_RUN = {"architecture": "single_task", "tasks": ["depth"], "training": {"epochs": 20}}
PARALLEL = ("stages.parallel", "--jobs", "2")


def statuses(project: Project) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in soak.runs_of(project)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("parallel"), PARAMS)
    project.variables = ALONE
    put_blank_store(project.root)
    project.dvc("repro", "prepare", "selection", "adoption")
    return project


@pytest.fixture
def project(prepared, tmp_path):
    """A project in which nothing is trained yet."""
    return prepared.copy(tmp_path / "project")


def pause(repro: soak.Repro, checkpoint: Path) -> psutil.Process:
    """Stop the training that wrote it, which holds the lock beside it, while it uses nothing that the other needs."""
    (process,) = (each for each in repro.stages() if checkpoint.with_name("lock") in opened(each))
    stop(process)
    while uses_a_database(process):
        process.resume()
        time.sleep(0.01)
        stop(process)
    return process


def stop(process: psutil.Process) -> None:
    process.suspend()
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)


def opened(process: psutil.Process) -> set[Path]:
    """The files that it has open; none where it has ended."""
    try:
        return {Path(file.path) for file in process.open_files()}
    except psutil.NoSuchProcess:
        return set()


def uses_a_database(process: psutil.Process) -> bool:
    """SQLite's locks are the only ones of their kind here."""
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any("POSIX" in lock and str(process.pid) in lock for lock in locks)


def test_two_at_a_time_end_with_what_started_them_and_one_that_fails_stops_no_other(project):
    """How all of it ends where nothing goes wrong, is seen in test_pipeline.py.

    DVC's locks let one training begin seconds after the other, which has to wait: it is stopped at its checkpoint.
    """
    repro = soak.Repro(project, *PARALLEL)
    paused: dict[Path, psutil.Process] = {}
    try:
        while len(paused) < 2:
            assert repro.process.poll() is None, repro.output.read_text()
            for checkpoint in set(project.root.glob(".runs/train/*/checkpoint.pt")) - set(paused):
                paused[checkpoint] = pause(repro, checkpoint)
            time.sleep(0.01)
        repro.process.kill()
    finally:
        for process in paused.values():
            process.resume()
    repro.end()
    assert statuses(project) == {"semseg-0": "KILLED", "depth-0": "KILLED"}

    again = soak.Repro(project, *PARALLEL, forks=True)
    assert again.end(within=400) == 2
    assert statuses(project) == {"semseg-0": "FINISHED", "depth-0": "FINISHED", "wrong-0": "FAILED"}
    assert soak.resumptions(project) == {"semseg-0": 1, "depth-0": 1}
    output = again.output.read_text()
    assert "[wrong-0] the loss of depth is" in output
    own = [line.partition("] ")[2] for line in output.splitlines() if line.startswith("[depth-0]")]
    stages = dict.fromkeys(line for line in own if line.startswith("Running stage"))  # again, where DVC was busy
    assert list(stages) == ["Running stage 'train@depth-0':", "Running stage 'evaluate@depth-0':"]
    assert not any("git" in line or not line.strip() for line in own), "what DVC says after every stage"
    assert output.endswith("failed, see above: train@wrong-0. What succeeded beside them is recorded\n")


def test_two_processes_train_one_network_by_torchrun(project):
    """That they go on to the same bits, is seen in test_distributed.py."""
    (project.root / "params.yaml").write_text(yaml.safe_dump(SHORT))
    project.launcher = "torchrun --standalone --nproc-per-node=2"
    repro = soak.Repro(project, forks=True)  # up to torchrun and what that starts
    repro.wait_for_a_checkpoint()
    soak.KILLS["SIGKILL to DVC"](repro)
    assert repro.end() != 0
    assert statuses(project) == {"semseg-0": "KILLED"}
    repro = soak.Repro(project, forks=True)
    assert repro.end(within=300) == 0, repro.output.read_text()
    assert statuses(project) == {"semseg-0": "FINISHED"}
    record = project.json("models/semseg-0/run.json")
    assert soak.resumptions(project) == {"semseg-0": 1} and record["processes"] == 2
    assert project.json("reports/metrics/semseg-0.json")["tasks"] == record["last_validation"]


@pytest.mark.parametrize(
    ("environment", "threads", "jobs", "gpus", "slots"),
    [
        ({}, None, 3, 2, ["cuda:0 2", "cuda:1 2", "cuda:0 2"]),
        ({}, None, 3, 0, 3 * ["OMP 2 2"]),
        ({}, None, 16, 0, 16 * ["OMP 1 1"]),
        ({}, 1, 4, 0, 4 * ["OMP 1 2"]),
        ({}, 3, 4, 0, 4 * ["OMP 3 2"]),
        ({"OMP_NUM_THREADS": "4"}, None, 2, 0, 2 * ["4"]),
        ({"PIPELINE_DEVICE": "cuda:1"}, None, 2, 4, 2 * ["4"]),
        ({"PIPELINE_DEVICE": "cpu"}, None, 2, 4, 2 * ["OMP 4 4"]),
        ({"PIPELINE_DEVICE": "cpu", "OMP_NUM_THREADS": "3", "PIPELINE_WORKERS": "1"}, 1, 2, 4, 2 * [""]),
        ({"PIPELINE_LAUNCHER": "torchrun"}, None, 1, 4, [""]),
    ],
)
def test_slots_share_out_what_there_is(monkeypatch, environment, threads, jobs, gpus, slots):
    """slots: the device or OMP_NUM_THREADS of each, and its PIPELINE_WORKERS."""
    told = []
    monkeypatch.setattr(os, "environ", environment)
    for slot in make_slots(params_with(threads), jobs, gpus, 8):
        device, omp, workers = (slot.pop(name, "") for name in ("PIPELINE_DEVICE", "OMP_NUM_THREADS", WORKERS))
        told.append(" ".join(filter(None, [device, omp and f"OMP {omp}", workers])))
        assert not slot
    assert told == slots


def params_with(threads, **run):
    return parse_params(
        {
            "data": {"dataset": "rooms", "tasks": ["depth"]},
            "training": {
                "backbone": "none", "input_size": [32, 32], "batch_size": 4, "epochs": 1, "lr": 1,
                "cpu_threads": threads,
            },
            "seeds": [0, 1],
            "runs": {name: {"architecture": "single_task", "tasks": ["depth"]} for name in ("a", "b", "c")}
            | {"d": {"architecture": "single_task", "tasks": ["depth"], "training": run}},
        }
    )  # fmt: skip


GB = 10**9


@pytest.mark.parametrize(
    ("environment", "threads", "own", "gpus", "cores", "memory", "jobs"),
    [
        ({}, 1, 1, 0, 2, 64 * GB, 2),
        ({}, 1, 1, 0, 64, 64 * GB, 8),  # trainings
        ({}, 1, 1, 0, 64, 7 * GB, 3),
        ({}, 1, 1, 0, 64, GB, 1),
        ({}, 1, 3, 0, 8, 64 * GB, 2),  # the widest run counts
        ({}, 4, 1, 0, 2, 64 * GB, 1),
        ({}, None, None, 0, 8, 64 * GB, 1),
        ({}, None, 1, 0, 8, 64 * GB, 1),
        ({}, 1, 1, 2, 64, 64 * GB, 2),
        ({"PIPELINE_DEVICE": "cpu"}, 1, 1, 2, 4, 64 * GB, 4),
        ({"PIPELINE_DEVICE": "cuda:1"}, 1, 1, 4, 64, 64 * GB, 1),
        ({"PIPELINE_LAUNCHER": "torchrun"}, 1, 1, 4, 64, 64 * GB, 1),
    ],
)
def test_as_many_jobs_as_the_machine_can_do(monkeypatch, environment, threads, own, gpus, cores, memory, jobs):
    monkeypatch.setattr(os, "environ", environment)
    assert default_jobs(params_with(threads, cpu_threads=own), gpus, cores, memory) == jobs


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, cores()), ({"PIPELINE_WORKERS": "3"}, 3), ({"LOCAL_WORLD_SIZE": "64"}, 1)],
)
def test_stages_side_by_side_share_out_workers_too(monkeypatch, environment, count):
    monkeypatch.setattr(os, "environ", environment)
    assert worker_count() == count


@pytest.mark.parametrize("count", ["0", "-1", "all"])
def test_a_share_of_workers_that_is_no_number_is_refused(monkeypatch, count):
    monkeypatch.setenv("PIPELINE_WORKERS", count)
    with pytest.raises(ParamsError, match=f"PIPELINE_WORKERS={count}: must be a number of processes, 1 or more; unset"):
        worker_count()


@pytest.mark.parametrize(("quota", "most"), [("max 100000", 10**6), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_containers_quota_counts(monkeypatch, tmp_path, quota, most):
    monkeypatch.setattr(workers, "_QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(quota)
    assert cores() == min(len(os.sched_getaffinity(0)), most)


def test_no_jobs_at_all_are_refused():
    with pytest.raises(ParamsError, match="--jobs 0: at least 1"):
        make_slots(params_with(1), 0, 0, 8)


def test_the_longest_trainings_begin_first(in_tmp):
    """By metrics files of before, of any seed; a run that has none may be the longest of all."""
    params = parse_params(SHORT | {"seeds": [0, 1], "runs": PARAMS["runs"] | {"long": LONG_RUN}})
    jobs = [(f"train@{name}-{seed}",) for seed in (0, 1) for name in params.runs]
    assert longest_first(jobs, params) == jobs, "nothing is known of them"
    for name, seed, macs in (("semseg", 0, 10), ("depth", 1, 40), ("long", 0, 9)):
        paths.write_json(paths.metrics_file(name, seed), {"macs": macs})
    paths.metrics_file("long", 1).write_text("damaged")
    order = [job[0].removeprefix("train@") for job in longest_first(jobs, params)]
    assert order == ["wrong-0", "wrong-1", "long-0", "long-1", "depth-0", "depth-1", "semseg-0", "semseg-1"]


@pytest.mark.parametrize(
    ("done", "failed", "running", "efforts", "said"),
    [
        ({"a-0": 60}, [], {"b-0": 60}, {"a": 3, "b": 1}, "1 of 4"),
        ({"a-0": 60, "b-0": 40}, [], {"a-1": 20}, {"a": 3, "b": 1}, "2 of 4, about 40 s to go"),  # 30 and 10 by effort
        ({"a-0": 60, "b-0": 40}, [], {"a-1": 20}, {"a": 0, "b": 1}, "2 of 4, about 50 s to go"),  # a is not known
        ({"b-0": 40, "b-1": 44}, [], {"a-1": 12}, {"a": 3, "b": 1}, "2 of 4, about 2 min to go"),  # 42 by effort
        ({"a-0": 90, "b-0": 20}, ["b-1"], {"a-1": 80}, {"a": 3, "b": 1}, "2 of 4, 1 failed, about 7 s to go"),
        ({"a-0": 60, "b-0": 40}, [], {"a-1": 90, "b-1": 90}, {"a": 3, "b": 1}, "2 of 4"),
        ({"a-0": 1, "b-0": 1, "a-1": 1, "b-1": 1}, [], {}, {"a": 3, "b": 1}, "4 of 4"),
        ({"a-0": 1, "b-0": 1, "a-1": 1}, ["b-1"], {}, {"a": 3, "b": 1}, "3 of 4, 1 failed"),
    ],
)
def test_progress_says_how_long_the_rest_may_take(done, failed, running, efforts, said):
    """Two at a time, by the line of those that have ended: 30 + 10 by effort, 50, 42 by effort, 29 by effort."""
    ended, begun = ({(f"train@{name}",): seconds for name, seconds in of.items()} for of in (done, running))
    lost = [(f"train@{name}",) for name in failed]
    waiting = [
        job for name in ("a-0", "b-0", "a-1", "b-1") if (job := (f"train@{name}",)) not in [*ended, *begun, *lost]
    ]
    assert progress(ended, lost, begun, waiting, 2, efforts) == said
