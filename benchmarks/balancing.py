"""What each balancing method costs: time of a training step and peak memory, against fixed weights.

    python -m benchmarks.balancing                                  # 96x128, batch 8, four tasks
    python -m benchmarks.balancing --device cuda --size nyud
    python -m benchmarks.balancing --networks multi_task --methods uw cagrad

Steps are those of training (forward, losses with deep supervision, balancing, Adam; on CUDA as a CUDA graph where the
method lets them). Images and labels are noise: time does not depend on them. A step of a method and one of fixed
weights take turns; the ratio is the median over the rounds. The first row is that of fixed weights against themselves.
Times are of the clock on CUDA, and of the processor otherwise (OMP_NUM_THREADS=1). Memory is the peak of a process of
its own that takes three steps: on CUDA what torch allocated, on a processor the anonymous memory over that at the
start, looked at every millisecond. Methods of two batches take theirs in two parts, and have smaller maps for that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from statistics import median
from typing import Self

import psutil
import torch

from benchmarks.machine import describe
from benchmarks.networks import noise, timed
from pipeline.balancing.methods import METHODS
from pipeline.compute.device import Device, choose_device
from pipeline.core import names
from pipeline.networks.registry import build
from pipeline.params.load import parse_params
from pipeline.params.schema import ResolvedRun
from pipeline.train.step import make_step

NETWORKS = ("multi_task", "sequential_attention")
TASKS = {"semseg": 13, "depth": 1, "normals": 3, "edge": 1}
SIZES = {"small": ((96, 128), 8, 8), "nyud": ((480, 640), 2, 8)}  # size, batch on a processor, batch on CUDA


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--backbone", default="hrnet_w18_small")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--rounds", type=int, help="by default 5 on a processor, 20 on CUDA")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)  # network, method: print the peak and end
    return parser.parse_args()


def resolved(network: str, method: str, args: argparse.Namespace) -> tuple[ResolvedRun, int]:
    size, on_cpu, on_cuda = SIZES[args.size]
    batch = args.batch or (on_cuda if args.device == "cuda" else on_cpu)
    recipe = {"backbone": args.backbone, "input_size": list(size), "batch_size": batch, "epochs": 1, "lr": 1e-4}
    recipe["accumulate"] = 2 if method in names.TWO_BATCHES else 1
    entry = {"architecture": network, "tasks": list(TASKS), "balancing": {"method": method}}
    tree = {"experiment": "benchmark", "data": {"dataset": "rooms", "tasks": list(TASKS)}, "seeds": [0]}
    return parse_params(tree | {"training": recipe, "runs": {"it": entry}}).run("it"), batch


class Bench:
    """A network with the steps of one method, on a batch of noise."""

    def __init__(self, network: str, method: str, args: argparse.Namespace, device: Device):
        torch.manual_seed(0)
        run, batch = resolved(network, method, args)
        tasks = {task: TASKS[task] for task in run.all_tasks}
        self.network = device.network(build(network, backbone=args.backbone, tasks=tasks)).train()
        self.batch = noise(run.training.input_size, tasks, batch).to(device.torch_device)
        self.batch.image = self.batch.image.float()
        self.device, self.step = device, make_step(self.network, run, device, 0)

    def __call__(self) -> float:
        """Seconds of one step; on a processor those of it, so beside other work too."""
        if self.device.torch_device.type == "cuda":
            return timed(lambda: self.step(self.batch), self.device)
        start = time.process_time()
        self.step(self.batch)
        return time.process_time() - start


def peak_memory(network: str, method: str, args: argparse.Namespace, device: Device) -> float:
    """MB at the peak of three steps in this process, which must not have computed before."""
    with AnonymousMemory() as memory:
        bench = Bench(network, method, args, device)
        for _ in range(3):
            bench()
    return (torch.cuda.max_memory_allocated() if device.torch_device.type == "cuda" else memory.grown) / 1e6


class AnonymousMemory:
    """By how many bytes a process grows within the block, files that it maps apart (Linux)."""

    def __enter__(self) -> Self:
        self._done, self._peak, self._before = threading.Event(), 0, _anonymous()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.001):
            self._peak = max(self._peak, _anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()

    @property
    def grown(self) -> int:
        return self._peak - self._before


def _anonymous() -> int:
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def peak_memory_apart(network: str, method: str) -> float:
    """`peak_memory` in a process of its own, with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.balancing", *sys.argv[1:], "--memory-of", network, method]
    # So that freed memory is given back at once, and the process is as large as what it uses.
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=own)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    args = arguments()
    if args.device != "auto":
        os.environ["PIPELINE_DEVICE"] = args.device
    device = choose_device("auto", True)
    if args.memory_of:
        print(json.dumps(peak_memory(*args.memory_of, args, device)))
        return
    args.device = device.torch_device.type
    rounds = args.rounds or (20 if args.device == "cuda" else 5)
    print(f"{describe('torch', 'torchjd')}; {device.description}")
    for network in args.networks:
        size, fixed = SIZES[args.size][0], Bench(network, names.FIXED, args, device)
        batch, memory = len(fixed.batch.image), peak_memory_apart(network, names.FIXED)
        print(f"\n{network}, {args.backbone}, {len(TASKS)} tasks, {size[0]}x{size[1]}, batch {batch}\n")
        print("| method | step ms | by fixed | peak MB | by fixed |\n|---|---|---|---|---|")
        for method in (names.FIXED, *args.methods):
            bench = Bench(network, method, args, device)
            warm_up = 4 if args.device == "cuda" else 1  # a CUDA graph is captured at the fourth step
            pairs = [(bench(), fixed()) for _ in range(warm_up + rounds)][warm_up:]
            ratio = median(own / other for own, other in pairs)
            peak = peak_memory_apart(network, method)
            seconds = median(own for own, _ in pairs)
            print(f"| {method} | {1e3 * seconds:.0f} | {ratio:.2f} | {peak:.0f} | {peak / memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
