"""A small project that is trained, scored and reported once, in this process, and what reads its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipeline.core import paths
from pipeline.params.load import load_params
from pipeline.params.single_task_weights import write_start
from stages import adoption, compare, download, evaluate, predict, prepare, report, selection, trace, train
from stages._entry import run_stage
from tests.support.blank_store import put_blank_store
from tests.support.project import ROOT

PARAMS = {
    "experiment": "rot",
    "data": {"dataset": "rooms", "tasks": ["semseg", "depth"], "rooms": {"train": 6, "val": 3, "size": [32, 32]}},
    "training": {
        "backbone": "test_resnet", "input_size": [32, 32], "batch_size": 3, "epochs": 1, "lr": 1.0e-3,
        "precision": "float32",
    },
    "evaluation": {"panels": 1},
    "seeds": [0],
    "runs": {
        "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
    },
    "runs_from_single_task": {"fused": {"architecture": "cross_stitch", "tasks": ["semseg", "depth"]}},
}  # fmt: skip
RUNS = ("semseg", "depth", "fused")


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """The project in `folder`, which is the working folder meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIPELINE_DEVICE", "cpu")
        patch.setenv("PIPELINE_WORKERS", "1")
        patch.setenv("DVC_ROOT", str(folder))
        patch.chdir(folder)
        for part in ("pipeline", "dvc.yaml"):
            (folder / part).symlink_to(ROOT / part)
        put_blank_store(folder)
        Path("params.yaml").write_text(yaml.safe_dump(PARAMS))
        params = load_params()
        for stage in (download, prepare, selection, adoption):
            stage.main(params)
        for run in RUNS:
            if run == "fused":
                write_start(params, run, 0)
            train.main(params, run, 0)
            evaluate.main(params, run, 0)
        compare.main(params)
        report.main(params)
        cv2.imwrite("photo.png", np.zeros((32, 32, 3), np.uint8))
        yield folder


# ---- what reads the files ------------------------------------------------------------------------------------

Command = Callable[[], None]


def stage(main: Callable, *argv: str, **options: object) -> Command:
    return lambda: run_stage(main, argv=argv, **options)


def of_run(module: object, run: str) -> Command:
    return stage(module.main, "--run", run, "--seed", "0", run_and_seed=True)


COMMANDS: dict[str, Command] = {
    "train": of_run(train, "semseg"),
    "train fused": of_run(train, "fused"),
    "evaluate": of_run(evaluate, "semseg"),
    "single_task_weights": stage(write_start, "--run", "fused", "--seed", "0", run_and_seed=True),
    "compare": stage(compare.main),
    "show": stage(lambda params: compare.main(params, show=True)),
    "report": stage(report.main),
    "trace": stage(trace.main, "models/semseg-0", parser=trace.parser()),
    "predict": stage(predict.main, "semseg-0", "photo.png", parser=predict.parser(), needs_params=False),
}


def run(command: Command, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit code and what was said; anything but a message is raised, as a person would get a traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command()
    printed = capsys.readouterr()
    return ended.value.code, printed.err


def numbers() -> dict[str, bytes | dict]:
    """All that a person reads numbers in; JSON by what it says."""
    found = {}
    for pattern in ("metrics/*.json", "delta.*", "report.*", "history/*.csv"):
        for path in sorted(paths.REPORTS.glob(pattern)):
            found[str(path)] = paths.read_json(path) if path.suffix == ".json" else path.read_bytes()
    return found


@contextmanager
def flipped(path: Path, at: float, bit: int) -> Iterator[None]:
    """One bit of the file changed, at that part of it; its time stays. Undone at the end, as all else in reports."""
    shutil.rmtree("kept", ignore_errors=True)
    shutil.copytree(paths.REPORTS, "kept")
    content, times = path.read_bytes(), path.stat()
    place = min(int(at * len(content)), len(content) - 1)
    write_over(path, content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        yield
    finally:
        shutil.rmtree(paths.REPORTS)
        shutil.copytree("kept", paths.REPORTS)
        write_over(path, content)
        shutil.rmtree(paths.training_folder(""), ignore_errors=True)


def write_over(path: Path, content: bytes) -> None:
    """Give a file other bytes without making it shorter on the way, which would end whoever has it mapped."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
        file.write(content)
        file.truncate()
