"""Images per second of training by a profile's recipe, how busy the device is, and how long the recipe would take.

    python -m benchmarks.throughput                                    # NYUD's recipe, sequential_attention
    python -m benchmarks.throughput --profile pascal_context --runs multi_task sequential_attention
    python -m benchmarks.throughput --profile rooms --device cpu --steps 5     # try it without a GPU

Samples are noise of the recipe's size, since time does not depend on what they show. The pipeline's own training loop
does `--steps` steps an epoch on them, with everything that params ask for: the first epoch, which also captures the
step, is left out. Beside it stands the same recipe done the usual way: the samples decoded and augmented one by one on
the processor by loader workers, one for each core, and a network in float32 without TF32, channels-last and CUDA graph,
fed by copies from pinned memory. Busy is the share of time in which a kernel ran, as the driver counts it, while epochs
but the first were trained. What the whole recipe would take is its number of steps times the seconds of one, without
scoring.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.machine import describe
from pipeline.compute.device import Device, choose_device
from pipeline.data.sample import Label, Sample
from pipeline.data.store import DatasetInfo, Store, write_split
from pipeline.datasets import get_dataset
from pipeline.loading.in_memory import training_batches
from pipeline.loading.loader import Batch, ResizedSplit, _collate
from pipeline.networks.from_params import build_network
from pipeline.params.load import load_params
from pipeline.params.schema import ResolvedRun
from pipeline.tasks import get_task
from pipeline.train.loop import TrainingLoop
from pipeline.train.step import make_step
from pipeline.train.train_run import make_augmenter

BATCHES = 20  # at most so many of noise are made
TRAINING_SAMPLES = {"nyud": 795, "pascal_context": 4998}
EPOCHS = 3  # the first warms up


def noise(folder: Path, run: ResolvedRun, info: DatasetInfo, count: int) -> Store:
    """`count` samples at the recipe's input size."""
    size, rng = run.training.input_size, np.random.default_rng(0)

    def label(task: str) -> Label:
        if task == "normals":
            return Label(rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.random(size) < 0.9)
        if task == "depth":
            return Label(rng.random(size, dtype=np.float32) + 1, rng.random(size) < 0.9)
        classes = info.channels(task, get_task(task).channels)
        return Label(rng.integers(0, max(2, classes), size, dtype=np.uint8), rng.random(size) < 0.9)

    def sample(i: int) -> Sample:
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        return Sample(str(i), image, {task: label(task) for task in run.all_tasks})

    write_split(folder, (sample(i) for i in range(count)), run.all_tasks)
    return Store(folder, run.all_tasks)


def trained(run: ResolvedRun, store: Store, info: DatasetInfo, steps: int) -> tuple[float, float | None]:
    """Seconds a step and busy share of the pipeline's loop."""
    recipe = run.training.model_copy(update={"epochs": EPOCHS, "validate_every": None})
    run = run.model_copy(update={"training": recipe})
    device = choose_device(recipe.precision, recipe.channels_last)
    torch.manual_seed(0)
    network = device.network(build_network(run, info))
    batches = Repeated(training_batches(store, recipe.input_size, recipe.batch_size, 0, device.torch_device), steps)
    meter = Busy(device)
    with meter.running():
        loop = TrainingLoop(
            network, batches, make_augmenter(run), run, 0, device,
            lambda values, step: meter.begin() if step == steps else None, dict,
        )  # fmt: skip
        history = loop.train()
    return statistics.fmean(epoch.seconds for epoch in history[1:]) / steps, meter.share


def trained_as_usual(run: ResolvedRun, store: Store, info: DatasetInfo, steps: int) -> tuple[float, float | None]:
    """The same of the usual way."""
    recipe = run.training.model_copy(update={"compile": False, "cuda_graph": False})
    run = run.model_copy(update={"training": recipe})
    device = choose_device("float32", channels_last=False)
    torch.manual_seed(0)
    network = device.network(build_network(run, info)).train()
    step = make_step(network, run, device, 0)
    on_gpu = device.torch_device.type == "cuda"
    loader = DataLoader(
        Augmented(store, run), recipe.batch_size, shuffle=True, drop_last=True, collate_fn=_collate,
        num_workers=os.cpu_count() if on_gpu else 0, pin_memory=on_gpu, persistent_workers=on_gpu,
    )  # fmt: skip
    meter, done = Busy(device), 0
    with meter.running():
        while done < EPOCHS * steps:
            for batch in loader:
                step(batch.to(device.torch_device))
                done += 1
                if done == steps:
                    start = meter.begin()
                if done == EPOCHS * steps:
                    break
        seconds = now(device) - start
    return seconds / ((EPOCHS - 1) * steps), meter.share


class Repeated:
    """Batches gone through again until an epoch has `steps` of them."""

    def __init__(self, batches, steps: int):
        self._batches, self._steps = batches, steps
        self.share, self.batch_size = batches.share, batches.batch_size

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        rounds = (batch for turn in itertools.count() for batch in self._batches.epoch(1000 * epoch + turn))
        return itertools.islice(rounds, done, self._steps)


class Augmented(Dataset):
    """Samples at the input size, each augmented by itself where it is read."""

    def __init__(self, store: Store, run: ResolvedRun):
        self._samples, self._augmenter = ResizedSplit(store, run.training.input_size), make_augmenter(run)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> Batch:
        one = self._samples[i].map(lambda x: x[None])
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        augmented = self._augmenter(one, self._augmenter.draw(1, rng)).map(lambda x: x[0])
        return replace(augmented, image=augmented.image.float())  # a batch can't mix those that were warped with others


class Busy:
    """The share of time in which the driver saw a kernel run, asked ten times a second; None but on CUDA."""

    def __init__(self, device: Device):
        self._device, self._shares, self._begun = device, [], False

    def begin(self) -> float:
        """Count from now on; the time of day of that, once the device has done all it was given."""
        self._begun = True
        return now(self._device)

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(over,))
        if self._device.torch_device.type == "cuda":
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.ident:
                thread.join()

    def _look(self, over: threading.Event) -> None:
        while not over.wait(0.1):
            if self._begun:
                self._shares.append(torch.cuda.utilization(self._device.torch_device))

    @property
    def share(self) -> float | None:
        return statistics.fmean(self._shares) if self._shares else None


def now(device: Device) -> float:
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0f}"


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--profile", default="nyud", help="profiles/<name>.yaml")
    command.add_argument("--runs", nargs="+", default=["sequential_attention"])
    command.add_argument("--device", help="as PIPELINE_DEVICE")
    command.add_argument("--steps", type=int, default=60, help="in each of three epochs")
    arguments = command.parse_args()
    if arguments.device:
        os.environ["PIPELINE_DEVICE"] = arguments.device
    params = load_params(Path("profiles") / f"{arguments.profile}.yaml")
    dataset = get_dataset(params.data.dataset)
    info = DatasetInfo(dataset.name, params.data.tasks, dict(dataset.classes), dataset.edge_max_dist, {}, "noise")
    print(
        "| run | images a step | ours img/s | usual way img/s | ratio | ours busy % | usual busy % | whole recipe h |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in arguments.runs:
        run = params.run(name)
        steps = min(arguments.steps, BATCHES)
        with tempfile.TemporaryDirectory() as folder:
            store = noise(Path(folder) / "train", run, info, steps * run.training.batch_size)
            ours, busy = trained(run, store, info, arguments.steps)
            usual, usual_busy = trained_as_usual(run, store, info, arguments.steps)
        size = run.training.batch_size
        samples = TRAINING_SAMPLES.get(dataset.name)
        hours = f"{samples // size * run.training.epochs * ours / 3600:.2f}" if samples else "-"
        print(
            f"| {name} | {size} | {size / ours:.1f} | {size / usual:.1f} | {usual / ours:.2f} | {percent(busy)} | "
            f"{percent(usual_busy)} | {hours} |",
            flush=True,
        )
    recipe = params.run(arguments.runs[0]).training
    device = choose_device(recipe.precision, recipe.channels_last)
    print(f"\n{describe('torch', 'timm')}; {device.description}; {arguments.profile}, {recipe.input_size}")


if __name__ == "__main__":
    main()
