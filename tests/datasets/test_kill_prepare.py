"""`prepare`, killed outright at ten moments: never a half-written dataset, no process and no files left behind."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.datasets import get_dataset
from pipeline.download.archive import fetch
from tests.support import forked
from tests.support.nyud_archive import TOP, nyud_files, write_tgz

pytestmark = pytest.mark.e2e

FRAMES = 300


def many_frames() -> dict[str, bytes]:
    """A NYUD_MT archive of FRAMES training frames: the same three over and over, under other ids."""
    files = nyud_files()
    for i in range(3, FRAMES):
        files |= {name.replace("0000", f"{i:04d}"): files[name] for name in nyud_files() if "/0000." in name}
    ids = "".join(f"{i:04d}\n" for i in range(FRAMES))
    return files | {f"{TOP}/gt_sets/train.txt": ids.encode()}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def processes(folder: Path) -> list[psutil.Process]:
    """Everything that still runs in `folder`, the workers of a killed stage too."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(folder):
            found.append(process)
    return found


@pytest.fixture
def start(in_tmp, root, monkeypatch):
    """Starts `stages.prepare` on a fetched NYUD_MT archive of FRAMES frames, with that many workers.

    As a fork of a process that has imported everything, so that all moments are of its work, and none of its imports.
    """
    archive = write_tgz(many_frames(), in_tmp / "small.tgz")
    fetch(get_dataset("nyud").archive, in_tmp / "data" / "raw", str(archive))
    params = yaml.safe_load((root / "profiles/nyud.yaml").read_text())
    params["data"]["archive"] = str(archive)
    shutil.copy(root / "dvc.yaml", in_tmp)
    (in_tmp / "params.yaml").write_text(yaml.safe_dump(params))

    def started(workers: int) -> forked.Process:
        environment = os.environ | {"PIPELINE_WORKERS": str(workers)}
        return forked.Process(in_tmp, ["stages.prepare"], environment, in_tmp / "prepare.log")

    return started


def end(process: forked.Process) -> int:
    while process.poll() is None:
        time.sleep(0.01)
    return process.returncode


def test_killed_at_ten_moments(start, in_tmp):
    """Of ten starts, six read the frames themselves and four have two workers, which import everything first."""
    target = in_tmp / "data" / "prepared"
    raw = tree(in_tmp / "data" / "raw")
    end(start(1))  # waits for the imports
    undisturbed, seconds = tree(target), {}
    for workers in (1, 2):
        shutil.rmtree(target)
        process, began = start(workers), time.perf_counter()
        assert end(process) == 0, (in_tmp / "prepare.log").read_text()
        seconds[workers] = time.perf_counter() - began
        assert tree(target) == undisturbed

    moments = random.Random(0)
    seen = {1: Counter(), 2: Counter()}
    for workers in (1, 1, 2, 1, 2, 1, 1, 2, 1, 2):
        for path in sorted(target.rglob("*"), reverse=True):  # as DVC does before it runs a stage
            path.unlink() if path.is_file() else path.rmdir()
        target.rmdir() if target.exists() else None
        process = start(workers)
        time.sleep(moments.uniform(0.25, 1.0) * seconds[workers])
        process.send_signal(signal.SIGKILL)
        end(process)
        if target.exists():
            assert tree(target) == undisturbed
            seen[workers]["done"] += 1
            seconds[workers] *= 0.8  # the machine has more time for it than it had
        else:
            half = (in_tmp / "data" / ".prepared").exists()
            seen[workers]["unpacking or packing" if half else "nothing"] += 1
    half_done = [each["unpacking or packing"] for each in seen.values()]
    assert min(half_done) >= 1 and sum(half_done) >= 3, seen  # the moments meant something

    assert end(start(1)) == 0, (in_tmp / "prepare.log").read_text()
    assert tree(target) == undisturbed and tree(in_tmp / "data" / "raw") == raw
    left = [".prepared.lock", "prepared", "raw"]
    assert sorted(path.name for path in (in_tmp / "data").iterdir()) == left
    deadline = time.monotonic() + 10  # workers look for their parent every second
    while processes(in_tmp) != [psutil.Process()] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes(in_tmp) == [psutil.Process()]
