"""A training that is killed again and again, beside one that is not: what is left in the end must be the same.

`make test-soak` kills 20 times, one training or two, and takes eight minutes; tests/e2e/test_soak.py kills three
times. Or `python -m tests.soak [--epochs N] [--kills N] [--seed N] [--device cuda] [--compile]`: with few epochs (4)
training is done after a few kills, some of them in its scoring, and another takes its place.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil

from tests.support import forked
from tests.support.blank_store import put_blank_store
from tests.support.project import ALONE, Project

GONE_SECONDS = 10  # how long a process may live on after it was asked to end
KILLED_WITHIN = 20.0  # seconds of a start: time for some steps
RUN = "semseg-0"
STAGE = f"evaluate@{RUN}"

PARAMS = {
    "experiment": "soak",
    "data": {
        "dataset": "rooms", "tasks": ["semseg"], "archive": None, "folder": "data/own",
        "rooms": {"seed": 0, "train": 24, "val": 4, "size": [32, 64]},
    },
    "training": {
        "backbone": "hrnet_w18_small", "input_size": [32, 64], "batch_size": 2, "epochs": 4, "lr": 1.0e-3,
        "validate_every": 2, "deterministic": True,
        "augmentation": {"flip": 0.5, "scale": [0.8, 1.2], "scale_mode": "range", "rotation": 5.0},
    },
    "evaluation": {
        "batch_size": 4, "panels": 1, "select_on": "train_holdout", "edge_nms": False, "allow_different": [],
        "split": "val",
    },
    "checkpoint_minutes": 0.005,  # every few steps
    "seeds": [0],
    "runs": {"semseg": {"architecture": "single_task", "tasks": ["semseg"]}},
    "runs_from_single_task": {},
    "tuned": {},
}  # fmt: skip

Kill = Callable[["Repro"], None]


class Repro:
    """A `dvc repro`, or `command`, that is under way, in a process group of its own as a terminal gives it.

    forks: whether it and its stages are forks of a process that has imported everything (tests/support/forked.py).
    """

    def __init__(self, project: Project, *command: str, forks: bool = False):
        self.folder = project.root
        self.output = self.folder / "repro.log"
        command = command or ("dvc", "repro", STAGE)
        self.process: forked.Process | subprocess.Popen
        if forks:
            self.process = forked.Process(self.folder, command, project.environment, self.output)
            return
        with self.output.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder, env=project.environment, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if we are in the background
            )  # fmt: skip

    def stages(self) -> list[psutil.Process]:
        """What runs in the folder but DVC and the shells that it uses."""
        found = []
        for process in psutil.process_iter(["cwd", "cmdline", "name"]):
            info = process.info
            words = (info["name"] or "", *(info["cmdline"] or ()))  # a fork has but a name of its own
            if info["cwd"] == str(self.folder) and any("stages." in word for word in words):
                found.append(process)
        return found

    def wait_for_a_checkpoint(self) -> None:
        """Until this attempt has written one."""
        began = time.time()
        while not any(path.stat().st_mtime > began for path in self.folder.glob(".runs/train/*/checkpoint.pt")):
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.01)

    def kill_stage(self, number: int) -> None:
        """Signal the stage, or DVC while it is between two stages."""
        try:
            for process in self.stages() or [psutil.Process(self.process.pid)]:
                process.send_signal(number)
        except psutil.NoSuchProcess:  # the stage ended meanwhile
            self.kill_stage(number)

    def end(self, within: float = GONE_SECONDS) -> int:
        """Wait for DVC and all that it started to be gone; DVC's exit code."""
        deadline = time.monotonic() + within
        while (self.process.poll() is None or self.stages()) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [process.cmdline() for process in self.stages()]
        assert self.process.poll() is not None and not left, f"{within} s after it was asked to end there is: {left}"
        return self.process.returncode


KILLS: dict[str, Kill] = {
    "SIGKILL to the stage": lambda repro: repro.kill_stage(signal.SIGKILL),
    "SIGTERM to the stage": lambda repro: repro.kill_stage(signal.SIGTERM),
    "SIGKILL to DVC": lambda repro: repro.process.send_signal(signal.SIGKILL),
    "Ctrl-C": lambda repro: os.killpg(repro.process.pid, signal.SIGINT),
}


class Soak:
    """Two copies of one project with prepared data: one undisturbed, one to be killed."""

    def __init__(self, folder: Path, device: str = "cpu", **training: object):
        (folder / "undisturbed").mkdir()
        params = PARAMS | {"training": PARAMS["training"] | training}
        self.undisturbed = Project(folder / "undisturbed", params)
        self.undisturbed.device, self.undisturbed.variables = device, ALONE
        put_blank_store(self.undisturbed.root)
        self.undisturbed.dvc("repro", "prepare")
        self._prepared = self.undisturbed.copy(folder / "prepared")
        self._folder, self._copies = folder, 0
        began = time.monotonic()
        self.undisturbed.dvc("repro", STAGE)
        self.seconds = time.monotonic() - began
        self.expected = outcome(self.undisturbed)

    def fresh(self) -> Project:
        """A project in which nothing is trained yet."""
        self._copies += 1
        return self._prepared.copy(self._folder / f"disturbed-{self._copies}")

    def check(self, project: Project) -> None:
        """Raise AssertionError unless `project` ended as the undisturbed one did, with nothing left over."""
        found = outcome(project)
        for what, expected in self.expected.items():
            assert found[what] == expected, f"{what} differs:\n{found[what]}\n{expected}"
        assert not list((project.root / ".runs" / "train").iterdir()), "a checkpoint is left"


def outcome(project: Project) -> dict[str, object]:
    """All that a training leaves, but for durations and times of day, which MLflow alone has."""
    run, metrics = mlflow_run(project)
    return {
        "weights": (project.root / "models" / RUN / "weights.safetensors").read_bytes(),
        "history": (project.root / "reports" / "history" / f"{RUN}.csv").read_text(),
        "scores": project.json(f"reports/metrics/{RUN}.json"),
        "run.json": project.json(f"models/{RUN}/run.json"),
        "status": run.info.status,
        "params": run.data.params,
        "datasets": [each.dataset.digest for each in run.inputs.dataset_inputs],
        "metrics": metrics,
    }


def client_of(project: Project) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(project.store or f"sqlite:///{project.root / 'mlflow.db'}")


def runs_of(project: Project) -> list[mlflow.entities.Run]:
    client = client_of(project)
    return client.search_runs([client.get_experiment_by_name(PARAMS["experiment"]).experiment_id])


def resumptions(project: Project) -> dict[str, int]:
    """{name: how often its training was resumed} of the runs of the store whose training ended."""
    client = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    ended = [run.info for run in runs_of(project) if "weights_sha256" in run.data.tags]
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for run in ended:
            place = Path(folder) / run.run_id
            place.mkdir()
            path = client.download_artifacts(run.run_id, "execution.json", str(place))
            found[run.run_name] = json.loads(Path(path).read_text())["resumed"]
    return found


def mlflow_run(project: Project) -> tuple[mlflow.entities.Run, dict[str, list[tuple[int, float]]]]:
    """The only run of the store, and its metrics but those of machine and time: {name: [(step, value), ...]}."""
    client = client_of(project)
    (run,) = runs_of(project)
    names = sorted(name for name in run.data.metrics if not name.startswith(("system/", "cost/")))
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    return run, {name: sorted((point.step, point.value) for point in each) for name, each in histories.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the ways of killing")
    parser.add_argument("--device", default="cpu", help="as PIPELINE_DEVICE")
    parser.add_argument("--compile", action="store_true", help="the network by torch.compile")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        training = {"epochs": arguments.epochs, "compile": arguments.compile}
        soak = Soak(Path(folder).resolve(), arguments.device, **training)
        print(f"undisturbed: {soak.seconds:.0f} s")
        project, killed, trainings, unfinished = soak.fresh(), 0, 0, True
        while killed < arguments.kills or unfinished:
            way = chance.choice(list(KILLS)) if killed < arguments.kills else None
            repro = Repro(project)
            moment = time.monotonic() + chance.uniform(0, min(soak.seconds, KILLED_WITHIN))
            while repro.process.poll() is None and (way is None or time.monotonic() < moment):
                time.sleep(0.01)
            if repro.process.poll() is None:
                killed += 1
                print(f"{killed}: {way}", flush=True)
                KILLS[way](repro)
                unfinished = True
            if repro.end() == 0:  # it was done before its moment, or had nothing left to do but exit
                soak.check(project)
                trainings += 1
                print(f"training {trainings} ended as the undisturbed one", flush=True)
                project, unfinished = soak.fresh(), False
            elif way is None:
                sys.exit(repro.output.read_text())


if __name__ == "__main__":
    main()
