"""How long a training step and an inference of every network take, and how much memory a step needs.

    python -m benchmarks.networks                                   # every network, NYUD's size
    python -m benchmarks.networks --networks sequential_attention --size small
    python -m benchmarks.networks --device cuda --compile --batch 8

A step is what the training loop does: forward, the tasks' losses with deep supervision, backward, Adam; on CUDA as a
CUDA graph. Images and labels are noise: time does not depend on them. `sequential_attention` meets its plain form
(tests/reference/sca.py and losses.py: float32, NCHW memory, neither captured nor compiled). All networks are timed in
turn, round by round, and medians are told, so that ratios hold on a machine that does other things as well. Memory is
the peak of a process that only takes two steps: on CUDA what torch allocated, on a processor the growth of the resident
set over what the imports need.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import psutil
import torch
from torch import nn

from benchmarks.machine import describe
from pipeline.compute.device import NORMALIZATIONS, Device, choose_device
from pipeline.core.errors import ParamsError
from pipeline.loading.loader import Batch
from pipeline.networks.registry import ARCHITECTURES, build
from pipeline.tasks import get_task
from pipeline.train.cuda_graph import CUDAGraphStep
from pipeline.train.step import by_task, task_losses
from tests.reference.losses import plain_total
from tests.reference.sca import PlainHRNet, PlainSequentialAttention

BACKBONE = "hrnet_w18_small_v2"
PLAIN = "sequential_attention, plain"


@dataclass(frozen=True)
class Setting:
    """Image size and {task: channels}: of a dataset's published recipe, or of a quick look."""

    size: tuple[int, int]
    tasks: dict[str, int]
    cpu_batch: int
    gpu_batch: int


SETTINGS = {
    "nyud": Setting((480, 640), {"semseg": 40, "depth": 1}, 1, 10),
    "pascal": Setting((512, 512), {"semseg": 21, "human_parts": 7, "sal": 1}, 1, 10),
    "small": Setting((96, 128), {"semseg": 40, "depth": 1}, 8, 8),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--networks", nargs="+", choices=tuple(ARCHITECTURES), default=tuple(ARCHITECTURES))
    parser.add_argument("--size", choices=tuple(SETTINGS), default="nyud")
    parser.add_argument("--batch", type=int, help="images a step; by default 1 on a processor (small: 8), 10 on CUDA")
    parser.add_argument("--repeats", type=int, help="rounds; by default 3 on a processor, 20 on CUDA")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="as in params")
    parser.add_argument("--compile", action="store_true", help="torch.compile all but the plain form, as one graph")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one network: print its peak and end
    return parser.parse_args()


class Bench:
    """One network with its optimizer and a batch on the device."""

    def __init__(self, name: str, device: Device, setting: Setting, batch: int, compile: bool):
        torch.manual_seed(0)
        self.plain = name == PLAIN
        tasks = setting.tasks if name != "single_task" else dict([next(iter(setting.tasks.items()))])
        if self.plain:
            device = replace(device, dtype=torch.float32, channels_last=False)
            self.network: nn.Module = PlainSequentialAttention(PlainHRNet(BACKBONE), tasks, {})
        else:
            self.network = build(name, backbone=BACKBONE, tasks=tasks)
        self.device, self.tasks = device, tuple(tasks)
        self.network = device.network(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
        self.batch = noise(setting.size, tasks, batch).to(device.torch_device)
        self.forward = torch.compile(self.network, fullgraph=True) if compile and not self.plain else self.network
        captured = device.uses_cuda_graph("auto") and not self.plain
        self.gradients = CUDAGraphStep(self._gradients) if captured else self._gradients

    def train(self) -> None:
        self.network.train()
        self.gradients(self.batch)
        self.optimizer.step()

    def _gradients(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        with self.device.autocast():
            outputs = self.forward(self.device.image(batch.image, NORMALIZATIONS["imagenet"]))
            if self.plain:
                losses = {"all": plain_total(outputs, batch, self.tasks)}
            else:
                losses = by_task(task_losses(outputs, batch, self.tasks, deep_supervision=True))
        sum(losses.values()).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def infer(self) -> None:
        self.network.eval()
        with torch.no_grad(), self.device.autocast():
            self.forward(self.device.image(self.batch.image, NORMALIZATIONS["imagenet"]))


def noise(size: tuple[int, int], tasks: dict[str, int], batch: int) -> Batch:
    """Random images and labels that are valid everywhere."""
    value = {}
    for task, channels in tasks.items():
        shape = (batch, get_task(task).label_channels, *size)
        codes = torch.randint(max(channels, 2), shape, dtype=torch.uint8)
        value[task] = codes if get_task(task).categorical else torch.rand(shape)
    valid = {task: torch.ones(batch, 1, *size, dtype=torch.bool) for task in tasks}
    return Batch(torch.randint(256, (batch, 3, *size), dtype=torch.uint8), value, valid)


def timed(call: Callable[[], None], device: Device) -> float:
    def now() -> float:
        if device.torch_device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    call()
    return now() - start


def peak_memory(name: str, args: argparse.Namespace, device: Device, batch: int) -> int:
    """Bytes at the peak of two steps in this process, which must not have computed before."""
    before = psutil.Process().memory_info().rss
    bench = Bench(name, device, SETTINGS[args.size], batch, args.compile)
    for _ in range(2):
        bench.train()
    if device.torch_device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before


def peak_memory_apart(name: str) -> int:
    """`peak_memory` in a process of its own, with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.networks", *sys.argv[1:], "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"measuring the memory of {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    args = arguments()
    if args.device != "auto":
        os.environ["PIPELINE_DEVICE"] = args.device
    try:
        device = choose_device(args.precision, channels_last=True)
    except ParamsError as error:
        sys.exit(str(error))
    gpu = device.torch_device.type == "cuda"
    setting = SETTINGS[args.size]
    batch = args.batch or (setting.gpu_batch if gpu else setting.cpu_batch)
    if args.memory_of:
        print(json.dumps(peak_memory(args.memory_of, args, device, batch)))
        return
    names = list(args.networks)
    if "sequential_attention" in names:
        names.insert(names.index("sequential_attention") + 1, PLAIN)
    memory = {name: peak_memory_apart(name) for name in names}
    benches = {name: Bench(name, device, setting, batch, args.compile) for name in names}
    step: dict[str, list[float]] = {name: [] for name in names}
    inference: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(1 + (args.repeats or (20 if gpu else 3))):
        for name, bench in benches.items():
            times = timed(bench.train, device), timed(bench.infer, device)
            if round_:  # the first warms up
                step[name].append(times[0])
                inference[name].append(times[1])
    how = f"{device.description}, {str(device.dtype).removeprefix('torch.')}{', compiled' if args.compile else ''}"
    print(f"{describe('torch', 'timm')}; {how}")
    print(f"{BACKBONE}, {'x'.join(map(str, setting.size))}, batch {batch}, tasks {', '.join(setting.tasks)}\n")
    print("| network | parameters | step s | images/s | step GiB | inference s |")
    print("|---|---|---|---|---|---|")
    for name, bench in benches.items():
        millions = sum(p.numel() for p in bench.network.parameters()) / 1e6
        seconds, forward = median(step[name]), median(inference[name])
        print(
            f"| {name} | {millions:.2f} M | {seconds:.3f} | {batch / seconds:.2f} | {memory[name] / 2**30:.2f} "
            f"| {forward:.3f} |"
        )
    if PLAIN in names:
        own = "sequential_attention"
        faster = [median(times[PLAIN]) / median(times[own]) for times in (step, inference)]
        print(
            f"\nsequential_attention against its plain form: step {faster[0]:.2f}x as fast, inference "
            f"{faster[1]:.2f}x, memory {memory[own] / memory[PLAIN]:.2f}x"
        )


if __name__ == "__main__":
    main()
