"""What a training takes beside the arithmetic: the stage `train` against the optimiser steps in it.

    python -m benchmarks.overhead                          # rooms' default recipe, 60 epochs of multi_task: 5 minutes
    python -m benchmarks.overhead --epochs 5 --steps 60    # a quick look

A copy of the project in a temporary folder prepares the default data and runs the stage as DVC would, from the start of
Python to its end: imports, building, MLflow, augmentation, checkpoints and a validation at the end. Its own steps
(forward, losses, backward, optimiser) are timed by a clock around `Step` in the copy: a machine that changes its pace
changes both sides of the ratio.

That the steps themselves are no slower than they must be, is seen beside it: bare steps in a second process, with the
stage's network, losses and optimiser, on batches that lie in memory, before the stage and after it. Such blocks differ
among themselves by a tenth or more on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import torch
import yaml

from benchmarks.machine import describe
from tests.support.project import ROOT, Project

RUN = "multi_task"

# Appended to pipeline/train/step.py of the copy. On the CPU a step has ended when it returns.
CLOCK = """

import atexit, time
from pathlib import Path

_seconds, _call = [], Step.__call__


def _timed(self, batch):
    start = time.perf_counter()
    losses = _call(self, batch)
    _seconds.append(time.perf_counter() - start)
    return losses


Step.__call__ = _timed
atexit.register(lambda: Path("step_seconds").write_text(str(sum(_seconds))))
"""


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--epochs", type=int, default=60)
    command.add_argument("--steps", type=int, default=200, help="bare steps in each of the two blocks (default 200)")
    command.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)  # time a block in this folder, print it
    arguments = command.parse_args()
    if arguments.bare:
        print(json.dumps(bare_seconds(arguments.steps)))
        return
    params = yaml.safe_load((ROOT / "profiles" / "rooms.yaml").read_text())
    params["training"] |= {"epochs": arguments.epochs, "validate_every": 0}
    params |= {"runs": {RUN: params["runs"][RUN]}, "seeds": [0]}
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), params)
        project.dvc("repro", "prepare")
        step = project.root / "pipeline" / "train" / "step.py"
        step.write_text(step.read_text() + CLOCK)
        blocks = [block(project, arguments.steps)]
        start = time.perf_counter()
        stage = [sys.executable, "-m", "stages.train", "--run", RUN, "--seed", "0"]
        subprocess.run(stage, cwd=project.root, env=project.environment, check=True, capture_output=True)
        whole = time.perf_counter() - start
        blocks.append(block(project, arguments.steps))
        record = project.json(f"models/{RUN}-0/run.json")
        store = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
        (run,) = store.search_runs([store.get_experiment_by_name(params["experiment"]).experiment_id])
        training = run.data.metrics["cost/training_seconds"]
        own = float((project.root / "step_seconds").read_text())
    steps = arguments.epochs * (params["data"]["rooms"]["train"] // params["training"]["batch_size"])
    bare = steps * sum(blocks) / (2 * arguments.steps)
    print(f"{describe('torch')}; {record['device']}")
    print(
        f"{RUN}, {steps} steps: stage {whole:.1f} s, of it training {training:.1f} s, "
        f"steps {own:.1f} s; ratio of the stage to its steps {whole / own:.3f}"
    )
    print(f"as many bare steps: {bare:.1f} s (blocks of {arguments.steps}: {blocks[0]:.1f} and {blocks[1]:.1f} s)")


def block(project: Project, steps: int) -> float:
    """Seconds of `steps` bare steps, in a process of their own."""
    own = [sys.executable, str(Path(__file__).resolve()), "--bare", "--steps", str(steps)]
    environment = project.environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(own, cwd=project.root, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def bare_seconds(steps: int) -> float:
    from pipeline.balancing.fixed import FixedWeights
    from pipeline.compute.device import NORMALIZATIONS, choose_device
    from pipeline.core import paths
    from pipeline.data.store import Store, read_info
    from pipeline.loading.in_memory import training_batches
    from pipeline.networks.from_params import build_network
    from pipeline.params.load import load_params
    from pipeline.train.step import by_task, make_optimizer, task_losses

    run = load_params().run(RUN)
    recipe = run.training
    device = choose_device(recipe.precision, recipe.channels_last)
    torch.manual_seed(0)
    network = device.network(build_network(run, read_info())).train()
    optimizer, balance = make_optimizer(network, recipe, device), FixedWeights(run.all_tasks, run.loss_weights)
    store = Store(paths.PREPARED / "train", run.all_tasks).labelled()
    batches = list(training_batches(store, recipe.input_size, recipe.batch_size, 0, device.torch_device).epoch(0))
    images = [device.image(batch.image, NORMALIZATIONS[recipe.normalization]) for batch in batches]

    def step(i: int) -> None:
        with device.autocast():
            outputs = network(images[i % len(images)])
            losses = task_losses(outputs, batches[i % len(batches)], run.all_tasks, recipe.deep_supervision)
            total = balance.total(by_task(losses))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    def wait() -> None:
        if device.torch_device.type == "cuda":
            torch.cuda.synchronize()

    for i in range(5):
        step(i)
    wait()
    start = time.perf_counter()
    for i in range(steps):
        step(i)
    wait()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
