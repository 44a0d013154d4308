"""How long it takes to export sequential attention, with all comparisons, and how large the file is.

    python -m benchmarks.export                     # as ONNX and as pt2, two tasks, hrnet_w18_small: five minutes
    python -m benchmarks.export --kinds onnx

Random weights in a folder as training leaves it; `stages.export` in a process of its own, from the start of Python to
its end. An export compares graph and file with the network at six sizes and fails where they differ, so what is timed
is right.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe
from tests.support.saved_network import put_graph, save_network

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("onnx", "pt2"), default=("onnx", "pt2"))
    parser.add_argument("--architecture", default="sequential_attention")
    parser.add_argument("--backbone", default="hrnet_w18_small")
    arguments = parser.parse_args()
    print(describe("torch", "onnx"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        put_graph(Path(folder))
        save_network(arguments.architecture, ["semseg", "depth"], arguments.backbone, (96, 128))
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        for kind in arguments.kinds:
            before, start = cpu_seconds(), time.perf_counter()
            command = [sys.executable, "-m", "stages.export", "net-0", "--to", kind]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds, cpu = time.perf_counter() - start, cpu_seconds() - before
            size = Path(f"exports/net-0.{kind}").stat().st_size / 2**20
            print(f"{kind}: {seconds:.0f} s, {cpu:.0f} s of processor time, {size:.1f} MiB{nodes(kind)}", flush=True)


def cpu_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def nodes(kind: str) -> str:
    if kind != "onnx":
        return ""
    import onnx

    return f", {len(onnx.load('exports/net-0.onnx').graph.node)} nodes"


if __name__ == "__main__":
    main()
