"""The packed store against the files it was made from, and `dvc status` beside a store of PASCAL-Context's size.

python -m benchmarks.store                    # reading: NYUD-sized frames, packed against jpg + png + npy
python -m benchmarks.store --status 10103     # dvc status with a prepared set of so many samples (2 MB each)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import yaml

from benchmarks.machine import describe
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store, write_split
from pipeline.datasets import get_dataset
from pipeline.datasets.rooms.dataset import render_frame
from pipeline.params.schema import Data

NYUD_SIZE = (480, 640)
NYUD_TASKS = ("semseg", "depth", "normals", "edge")
PASCAL_SIZE = (375, 500)
PASCAL_TASKS = ("semseg", "human_parts", "sal", "normals", "edge")


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--frames", type=int, default=32, help="frames to read (default 32)")
    command.add_argument("--repeats", type=int, default=7, help="interleaved repeats; medians are told")
    command.add_argument("--status", type=int, metavar="N", help="time `dvc status` beside a store of N samples")
    arguments = command.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        if arguments.status:
            time_status(Path(folder), arguments.status)
        else:
            time_reading(Path(folder), arguments.frames, arguments.repeats)


# -- reading -------------------------------------------------------------------------------------------------


def time_reading(folder: Path, frames: int, repeats: int) -> None:
    """Milliseconds a sample, all labels in memory, in random order from a warm disk cache, on one process."""
    raw, params = folder / "NYUD_MT", Data(dataset="nyud", tasks=NYUD_TASKS)
    ids = write_originals(raw, frames)
    reader = get_dataset("nyud").read
    write_split(folder / "packed", (reader(raw, "train", each, params) for each in ids), NYUD_TASKS)
    store = Store(folder / "packed", NYUD_TASKS)
    order = np.random.default_rng(0).permutation(frames)

    def from_files(i: int) -> Sample:
        return reader(raw, "train", ids[i], params)

    ways = {"jpg + png + npy": from_files, "packed store": store.__getitem__}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, read in ways.items():
            seconds[way].append(timed(read, order))
    for way, times in seconds.items():
        print(f"{way:16} {1000 * median(times) / frames:7.2f} ms a sample")
    files, packed = (median(times) for times in seconds.values())
    print(f"ratio {files / packed:.1f} ({frames} frames of 480x640, {', '.join(NYUD_TASKS)}; {repeats} repeats)")


def timed(read: Callable[[int], Sample], order: np.ndarray) -> float:
    start = time.perf_counter()
    for i in order:
        sample = read(int(i))
        # A memory-mapped array costs nothing until it is touched: copy all of it, as a batch would.
        for array in (sample.image, *(each for label in sample.labels.values() for each in (label.value, label.valid))):
            np.array(array)
    return time.perf_counter() - start


def write_originals(raw: Path, frames: int) -> list[str]:
    """`rooms` frames at NYUD's size as the files of the NYUD_MT layout."""
    for name in ("images", "segmentation", "depth", "normals", "edge"):
        (raw / name).mkdir(parents=True)
    ids = []
    for i in range(frames):
        sample, _ = render_frame(0, "train", i, NYUD_SIZE)
        labels, name = sample.labels, f"{i:04d}"
        cv2.imwrite(str(raw / "images" / f"{name}.jpg"), sample.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(raw / "segmentation" / f"{name}.png"), labels["semseg"].value + 1)
        np.save(raw / "depth" / f"{name}.npy", np.where(labels["depth"].valid, labels["depth"].value, 0))
        np.save(raw / "normals" / f"{name}.npy", labels["normals"].value)
        np.save(raw / "edge" / f"{name}.npy", labels["edge"].value)
        ids.append(name)
    return ids


# -- dvc status ----------------------------------------------------------------------------------------------


def time_status(folder: Path, count: int) -> None:
    """Seconds of `dvc status` in a repository with a prepared set of `count` samples and ten stages that read it."""
    for split, share in (("train", count // 2), ("val", count - count // 2)):
        write_split(folder / "data" / "prepared" / split, synthetic(share, split), PASCAL_TASKS)
    size = sum(path.stat().st_size for path in folder.rglob("*.bin"))
    stages = {"prepare": {"cmd": "true", "outs": ["data/prepared"]}}
    stages |= {
        f"train-{i}": {"cmd": f"touch out-{i}", "deps": ["data/prepared"], "outs": [f"out-{i}"]} for i in range(10)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for i in range(10):
        (folder / f"out-{i}").write_text(str(i))

    def dvc(*arguments: str) -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"dvc {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return time.perf_counter() - start

    dvc("init", "--no-scm", "--quiet")
    dvc("config", "cache.type", "reflink,hardlink,copy")
    print(f"{count} samples, {size / 1e9:.1f} GB; dvc commit (hashing it once): {dvc('commit', '--force'):.1f} s")
    times = [dvc("status") for _ in range(5)]
    print(f"dvc status: median {median(times):.2f} s, at most {max(times):.2f} s (5 calls)")


def synthetic(count: int, split: str) -> Iterator[Sample]:
    """Samples of random bytes, of PASCAL's usual size and tasks."""
    rng = np.random.default_rng(0)
    height, width = PASCAL_SIZE
    noise = rng.integers(0, 256, (height + 64, width, 3), dtype=np.uint8)
    valid = np.ones(PASCAL_SIZE, bool)
    for i in range(count):
        image = noise[i % 64 : i % 64 + height]
        codes = image[..., 0] & 1
        labels = {task: Label(codes, valid) for task in PASCAL_TASKS} | {"normals": Label(image, valid)}
        yield Sample(f"{split}-{i:05d}", image, labels)


if __name__ == "__main__":
    main()
