"""What each balancing method costs: time of a training step and peak memory, against fixed weights.

    python -m benchmarks.balancing                                  # 96x128, batch 8, four tasks
    python -m benchmarks.balancing --device cuda --size nyud
    python -m benchmarks.balancing --networks multi_task --methods fixed uw cagrad

Steps are those of training (forward, losses with deep supervision, balancing, Adam; on CUDA as a CUDA graph where the
method lets them). Images and labels are noise: time does not depend on them. All methods are timed in turn, round by
round; the ratio is the median over rounds of the method's time by that of fixed weights in the same round. Memory is
the peak of a process of its own that only takes three steps, over what its imports need. Methods of two batches take
theirs in two parts, and have smaller maps in memory for that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from statistics import median

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
    every = (names.FIXED, *METHODS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--methods", nargs="+", choices=every, default=every)
    parser.add_argument("--backbone", default="hrnet_w18_small")
    parser.add_argument("--rounds", type=int, help="by default 5 on a processor, 20 on CUDA")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)  # network, method: print the peak and end
    return parser.parse_args()


def resolved(network: str, method: str, args: argparse.Namespace) -> tuple[ResolvedRun, int]:
    size, on_cpu, on_cuda = SIZES[args.size]
    batch = on_cuda if args.device == "cuda" else on_cpu
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
        """Seconds of one step."""
        return timed(lambda: self.step(self.batch), self.device)


def peak_memory(network: str, method: str, args: argparse.Namespace, device: Device) -> float:
    """MB at the peak of three steps in this process, which must not have computed before."""
    before = psutil.Process().memory_info().rss
    bench = Bench(network, method, args, device)
    for _ in range(3):
        bench()
    if device.torch_device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before) / 1e6


def peak_memory_apart(network: str, method: str) -> float:
    """`peak_memory` in a process of its own, with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.balancing", *sys.argv[1:], "--memory-of", network, method]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


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
        memory = {method: peak_memory_apart(network, method) for method in args.methods}
        benches = {method: Bench(network, method, args, device) for method in args.methods}
        times: dict[str, list[float]] = {method: [] for method in args.methods}
        for i in range(rounds + 4):  # a CUDA graph is captured at the fourth step
            for method, bench in benches.items():
                seconds = bench()
                if i >= 4 or (args.device == "cpu" and i >= 1):
                    times[method].append(seconds)
        size, batch = SIZES[args.size][0], len(benches[args.methods[0]].batch.image)
        print(f"\n{network}, {args.backbone}, {len(TASKS)} tasks, {size[0]}x{size[1]}, batch {batch}\n")
        print("| method | step ms | by fixed | peak MB | by fixed |\n|---|---|---|---|---|")
        base = args.methods[0]
        for method in args.methods:
            ratio = median(own / fixed for own, fixed in zip(times[method], times[base], strict=True))
            print(
                f"| {method} | {1e3 * median(times[method]):.0f} | {ratio:.2f} | {memory[method]:.0f} | "
                f"{memory[method] / memory[base]:.2f} |"
            )


if __name__ == "__main__":
    main()
