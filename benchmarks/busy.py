"""What a training on all cores loses to another process on the same cores, by how its idle threads wait.

    python -m benchmarks.busy                  # two minutes on two cores
    python -m benchmarks.busy --steps 6

Steps of sequential attention (96x128, batch 8) on as many threads as there are cores: alone, beside a process that
counts in a loop, and beside a second such training. Each with threads that spin for long while they wait, as OpenMP has
them do by itself, with threads that spin for a moment and then sleep, as `stages` have them do, and with threads that
sleep at once. Medians of a step in seconds, and how many times as long as alone and spinning.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median

from benchmarks.machine import describe
from stages._entry import SPINS

POLICIES = {
    "spinning": {},
    "as in stages": {"GOMP_SPINCOUNT": SPINS},
    "sleeping at once": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)  # take the steps in this process
    arguments = parser.parse_args()
    if arguments.own:
        print(*steps(arguments.steps))
        return
    print(describe("torch"))
    alone = None
    for beside in ("nothing", "a loop", "a second training"):
        for policy, environment in POLICIES.items():
            seconds = median(measure(arguments.steps, environment, beside))
            alone = alone or seconds
            print(f"beside {beside}, {policy}: {seconds:.2f} s a step, {seconds / alone:.2f} times", flush=True)


def measure(count: int, policy: dict[str, str], beside: str) -> list[float]:
    """Seconds of each step of a training in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))} | policy
    own = [sys.executable, "-m", "benchmarks.busy", "--own", "--steps"]
    others = {
        "nothing": [],
        "a loop": [[sys.executable, "-c", "while True: pass"]],
        "a second training": [[*own, "100000"]],
    }[beside]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in others]
    try:
        done = subprocess.run([*own, str(count)], env=environment, check=True, capture_output=True, text=True)
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [float(each) for each in done.stdout.split()]


def steps(count: int) -> list[float]:
    """Take `count` steps after one to warm up; seconds of each."""
    import torch

    from benchmarks.networks import SETTINGS, Bench
    from pipeline.compute.device import choose_device

    torch.manual_seed(0)
    setting = SETTINGS["small"]
    bench = Bench("sequential_attention", choose_device("float32", True), setting, setting.cpu_batch, False)
    bench.train()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        bench.train()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
