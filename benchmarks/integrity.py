"""What checking bytes costs, as a share of the training that it guards: data/prepared, checkpoints and weights.

    python -m benchmarks.integrity                   # the default, and NYUD's size: some minutes on two cores
    python -m benchmarks.integrity --profiles rooms  # the default alone

In one process, in turns, medians: comparing every array of a store of that size with its checksum; writing a
checkpoint with its checksum against writing it as torch does by itself; reading its bytes again, as a training that
continues does; SHA-256 of the weights; and steps of the optimiser. A training reads its data once, writes a checkpoint
an epoch, and its weights once. NYUD's size is measured on some frames and a small batch, and counted up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.machine import describe
from pipeline.compute.device import choose_device
from pipeline.core.integrity import ChecksumWriter, file_sha256, read_checksummed
from pipeline.data.sample import Label, Sample
from pipeline.data.store import DatasetInfo, Store, damaged_files, write_split
from pipeline.loading.loader import TrainingBatches
from pipeline.networks.from_params import build_network
from pipeline.params.load import load_params
from pipeline.params.schema import ResolvedRun
from pipeline.train.resume import without_crc32
from pipeline.train.step import make_step
from tests.support.project import ROOT


@dataclass(frozen=True)
class Case:
    """A training of a profile. frames: how many are packed, of `samples` (train and val); batch: images in a step."""

    profile: str
    run: str
    frames: int
    samples: int
    train: int
    batch: int


CASES = {
    "rooms": Case("rooms", "multi_task", 496, 496, 400, 16),
    "nyud": Case("nyud", "semseg", 16, 1449, 795, 2),
}


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--profiles", nargs="+", choices=CASES, default=list(CASES))
    command.add_argument("--repeats", type=int, default=5, help="turns (default 5)")
    arguments = command.parse_args()
    print(describe("torch"))
    for name in arguments.profiles:
        with tempfile.TemporaryDirectory(prefix="bench-integrity-") as folder:
            report(CASES[name], measure(CASES[name], Path(folder), arguments.repeats))


def measure(case: Case, folder: Path, repeats: int) -> dict[str, float]:
    """Median seconds of each part."""
    params = load_params(ROOT / "profiles" / f"{case.profile}.yaml")
    run, tasks = params.run(case.run), tuple(params.data.tasks)
    size = tuple(run.training.input_size)
    write_split(folder / "train", noise(size, tasks, case.frames), tasks)
    step, state = a_step(run, Store(folder / "train", tasks), tasks, case.batch)
    weights, checkpoint = folder / "weights", folder / "checkpoint"
    torch.save(state["network"], weights)

    def plain() -> None:
        with checkpoint.open("wb") as file:
            torch.save(state, file)

    def checked() -> None:
        with checkpoint.open("wb") as file, without_crc32():
            writer = ChecksumWriter(file)
            torch.save(state, writer)
            writer.finish()

    parts: dict[str, Callable[[], object]] = {
        "step": step,
        "data": lambda: list(damaged_files(folder / "train")),
        "checkpoint by torch": plain,
        "checkpoint": checked,
        "checkpoint read": lambda: read_checksummed(checkpoint),
        "weights": lambda: file_sha256(weights),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            times[name].append(time.perf_counter() - start)
    sizes = {"store MB": sum(path.stat().st_size for path in folder.glob("train/*")) / 1e6}
    sizes["checkpoint MB"] = checkpoint.stat().st_size / 1e6
    return {name: median(seconds) for name, seconds in times.items()} | sizes


def noise(size: tuple[int, int], tasks: tuple[str, ...], count: int) -> Iterator[Sample]:
    """Samples of the usual types; normals take four bytes a component, the most that they may."""
    rng = np.random.default_rng(0)
    codes = {"semseg": 13, "human_parts": 7, "sal": 2, "edge": 2}
    for i in range(count):
        values = {"depth": rng.random(size, np.float32), "normals": rng.random((*size, 3), np.float32)}
        values |= {task: rng.integers(0, classes, size, np.uint8) for task, classes in codes.items()}
        labels = {task: Label(values[task], rng.random(size) < 0.9) for task in tasks}
        yield Sample(str(i), rng.integers(0, 256, (*size, 3), np.uint8), labels)


def a_step(
    run: ResolvedRun, store: Store, tasks: tuple[str, ...], batch_size: int
) -> tuple[Callable[[], object], Mapping[str, object]]:
    """A step on one batch, and the state that a checkpoint of it holds."""
    classes = {"semseg": tuple("abcdefghijklm"), "human_parts": tuple("abcdefg")}
    info = DatasetInfo("rooms", tasks, classes, 0.011, {}, "")
    recipe = run.training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
    network = device.network(build_network(run, info)).train()
    step = make_step(network, run, device, 0)
    batches = TrainingBatches(store, recipe.input_size, batch_size, 0, on_gpu=False)
    batch = next(batches.epoch(0)).map(lambda x: x.to(device.torch_device))
    batch.image = batch.image.float()
    step(batch)
    return lambda: step(batch), {"network": network.state_dict(), "optimizer": step.optimizer.state_dict()}


def report(case: Case, seconds: dict[str, float]) -> None:
    recipe = load_params(ROOT / "profiles" / f"{case.profile}.yaml").run(case.run).training
    images = recipe.epochs * (case.train // recipe.batch_size) * recipe.batch_size
    training = images / case.batch * seconds["step"]
    data = seconds["data"] * case.samples / case.frames
    checkpoints = (seconds["checkpoint"] - seconds["checkpoint by torch"]) * recipe.epochs
    weights = 2 * seconds["weights"]
    print(f"{case.profile}: {case.run}, {recipe.epochs} epochs of {case.train} images, steps {training:.1f} s")
    print(f"  data: {seconds['store MB'] / seconds['data'] / 1e3:.2f} GB/s, {data:.3f} s, {data / training:.3%}")
    print(
        f"  a checkpoint of {seconds['checkpoint MB']:.0f} MB: {1e3 * seconds['checkpoint']:.0f} ms, by torch alone "
        f"{1e3 * seconds['checkpoint by torch']:.0f} ms; in all {checkpoints:+.3f} s, {checkpoints / training:+.3%}; "
        f"read {1e3 * seconds['checkpoint read']:.0f} ms"
    )
    print(f"  weights, written and read: {weights:.3f} s, {weights / training:.3%}")
    print(f"  all: {(data + checkpoints + weights) / training:+.3%}")


if __name__ == "__main__":
    main()
