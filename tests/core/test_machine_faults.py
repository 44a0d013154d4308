"""Full disks, no files left, read-only folders, little memory: one line, exit code 2, nothing by halves."""

import errno
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.core import machine_faults, paths
from pipeline.core.errors import DataError, MachineError
from pipeline.datasets import files, mat_sizes
from pipeline.datasets.preparation import prepare
from pipeline.params.load import parse_params
from pipeline.params.schema import Data
from pipeline.visual.paint import write_png
from tests.support import forked
from tests.support.blank_store import put_blank_store
from tests.support.traced import PARAMS

OURS = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "a/b: No space left on device: free some space"),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a"), "Too many open files: close other programs"),
    (OSError(errno.EROFS, os.strerror(errno.EROFS), "a"), "Read-only file system: fix the permissions"),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a"), "a: Permission denied: fix the permissions"),
    (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error: look after the disk"),
    (OSError(errno.EXDEV, "no", "a", None, "b"), None),
    (NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "reports/x"), "a file is where a folder should be"),
    (MemoryError(), "out of memory: close other programs"),
    (np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype(float)), "out of memory (Unable to allocate"),
    (BrokenProcessPool("abruptly"), "a worker process ended by itself, as when memory runs out"),
    (RuntimeError("can't start new thread"), "can't start new thread: close other programs"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "a smaller batch_size"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "CUDA out of memory. Tried to allocate 2"),
    (ImportError("libtorch.so: cannot open shared object file: Too many open files"), "allow more open files"),
    (cv2.error("OpenCV: (-4:Insufficient memory) Failed to allocate 3 bytes"), "Insufficient memory"),
    (FileNotFoundError(errno.ENOENT, "no", "a"), None),
    (ValueError("out of memory"), None),
    (KeyError("x"), None),
    (RuntimeError("shapes differ"), None),
]  # fmt: skip


@pytest.mark.parametrize(("error", "told"), OURS, ids=lambda each: type(each).__name__)
def test_what_the_machine_lacks_is_explained_and_a_bug_is_not(error, told):
    message = machine_faults.explain(error)
    if told is None:
        assert message is None
    else:
        assert told in message and message.endswith(", then run it again") and "\n" not in message
    assert isinstance(BrokenProcessPool(), BrokenExecutor)


@contextmanager
def small_files(limit: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_files_left():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        try:
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        yield
    finally:
        for each in opened:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- writing ---------------------------------------------------------------------------------------------------

WRITERS = {
    "json": lambda path: paths.write_json(path, {"scores": ["x" * 100] * 1000}),
    "png": lambda path: write_png(path, np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_does_not_fit_leaves_the_one_before_and_names_itself(in_tmp, kind):
    path = in_tmp / "folder" / "result"
    path.parent.mkdir()
    path.write_text("before")
    with small_files(5000), pytest.raises(OSError, match="File too large") as caught:
        WRITERS[kind](path)
    assert machine_faults.explain(caught.value).startswith(f"{path}: File too large")
    assert [each.name for each in path.parent.iterdir()] == ["result"] and path.read_text() == "before"


def test_a_folder_that_can_not_be_made_is_named(in_tmp):
    (in_tmp / "reports").write_text("a file")
    with pytest.raises(OSError, match="reports/metrics") as caught:
        paths.write_json(in_tmp / "reports" / "metrics" / "x.json", {})
    assert machine_faults.explain(caught.value).startswith(f"{in_tmp}/reports/metrics/x.json: ")


# ---- reading: a good sample is not taken for a broken one --------------------------------------------------------


def make_files(folder: Path) -> dict[str, tuple]:
    """{kind: (reader, its arguments)} of good files."""
    from scipy.io import savemat

    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "a.png")
    np.save(folder / "a.npy", np.zeros((8, 8), np.float32))
    savemat(folder / "a.mat", {"x": np.zeros((8, 8))})
    (folder / "a.txt").write_text("a\n")
    return {
        "jpg": (files.read_photo, folder / "a.jpg"),
        "png": (files.read_png, folder / "a.png"),
        "npy": (files.read_npy, folder / "a.npy"),
        "mat": (files.read_mat, folder / "a.mat", "x"),
        "ids": (files.read_ids, folder / "a.txt"),
    }


@pytest.mark.parametrize("kind", ["jpg", "png", "npy", "mat", "ids"])
def test_without_files_left_nothing_is_said_of_the_data(in_tmp, kind):
    read, path, *more = make_files(in_tmp)[kind]
    read(path, *more)  # whatever it imports
    with no_files_left(), pytest.raises(MachineError, match=r"can't be read now \(Too many open files\)"):
        read(path, *more)


@pytest.mark.parametrize(
    ("kind", "inside"), [("jpg", "PIL.Image.open"), ("npy", "numpy.load"), ("mat", "scipy.io.loadmat")]
)
@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, os.strerror(errno.EIO))], ids=["memory", "disk"])
def test_a_sample_is_not_left_out_for_want_of_memory_or_a_disk(in_tmp, monkeypatch, kind, inside, error):
    read, path, *more = make_files(in_tmp)[kind]

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(inside, fail)
    with pytest.raises(MachineError, match=f"a.{kind} can't be read now"):
        read(path, *more)


def test_prepare_leaves_out_no_sample_for_want_of_memory(in_tmp, monkeypatch):
    """With skip_broken, a sample that could not be read would be missing from the data for good."""

    def read(*_):
        raise MachineError("a.jpg can't be read now (out of memory)")

    dataset = parse_params(yaml.safe_load(yaml.safe_dump(PARAMS))).data
    params = Data.model_validate(dataset.model_dump() | {"skip_broken": True})
    paths.write_json(in_tmp / "raw" / "source.json", {"generated": True})
    monkeypatch.setattr("pipeline.datasets.preparation._read", read)
    with pytest.raises(MachineError):
        prepare(in_tmp / "raw", in_tmp / "prepared", params, workers=1)
    assert not (in_tmp / "prepared").exists()


# ---- headers that ask for memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["(1000000000, 1000000000)", "(999999999999,)", "(4, 5)"])
@pytest.mark.parametrize("version", [1, 2])
def test_an_npy_header_that_lies_asks_for_no_memory(in_tmp, shape, version):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    (in_tmp / "a.npy").write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(4 * 4 * 4))
    with pytest.raises(DataError, match=r"its header says [\d,]+ bytes of numbers, it holds 64"):
        files.read_array(in_tmp / "a.npy")


def mat(name: str, value: object, compressed: bool) -> bytes:
    from scipy.io import savemat

    content = BytesIO()
    savemat(content, {name: value}, do_compression=compressed)
    return content.getvalue()


def with_dims(content: bytes, compressed: bool, dims: bytes) -> bytes:
    """The dimensions of the first variable replaced."""
    if not compressed:
        return content[:160] + dims + content[168:]
    inner = zlib.decompress(content[136:])
    packed = zlib.compress(inner[:32] + dims + inner[40:])
    return content[:128] + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("value", [np.zeros((3, 4)), np.array([[1, 2], [3, 4]], object)], ids=["numbers", "cells"])
def test_a_mat_header_that_lies_asks_for_no_memory(in_tmp, compressed, value):
    good = mat("x", value, compressed)
    (in_tmp / "a.mat").write_bytes(with_dims(good, compressed, struct.pack("<ii", *value.shape)))
    assert files.read_mat(in_tmp / "a.mat", "x").shape == value.shape, "else this changes something else"
    for dims in ((2**31 - 1, 2**31 - 1), (-1, 4)):
        (in_tmp / "a.mat").write_bytes(with_dims(good, compressed, struct.pack("<ii", *dims)))
        with pytest.raises(DataError, match=r"its header says .* elements in [\d,]+ bytes"):
            files.read_mat(in_tmp / "a.mat", "x")


def test_a_mat_file_that_unpacks_to_very_much_is_not_unpacked(in_tmp, monkeypatch):
    monkeypatch.setattr(mat_sizes, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("memory is asked for"))
    (in_tmp / "a.mat").write_bytes(mat("x", np.zeros((1000, 1000)), compressed=True))
    with pytest.raises(DataError, match="a variable of more than 1,048,576 bytes"):
        files.read_mat(in_tmp / "a.mat", "x")


@pytest.mark.parametrize("end", [130, 136, 150, 200, 250])
def test_a_mat_file_that_is_cut_short(in_tmp, end):
    (in_tmp / "a.mat").write_bytes(mat("x", np.eye(9), compressed=False)[:end])
    with pytest.raises(DataError, match=r"a.mat (can't be read|holds no x)"):
        files.read_mat(in_tmp / "a.mat", "x")


# ---- stages ------------------------------------------------------------------------------------------------------

STAGES = {
    "download": ("data/raw",),
    "prepare": ("data/.prepared",),
    "selection": ("models",),
    "adoption": ("models",),
    "compare": ("reports",),
    "report": ("reports/figures",),
    "train": (".runs/train", "--run", "depth", "--seed", "0"),
    "evaluate": ("reports/panels", "--run", "depth", "--seed", "0"),
}


def make_project(folder: Path, root: Path) -> dict[str, str]:
    """Params, and as much as a stage needs to come to its first write; returns the environment."""
    params = PARAMS | {
        "data": {"dataset": "rooms", "tasks": ["depth"], "rooms": {"seed": 0, "train": 4, "val": 2, "size": [32, 64]}},
        "runs": {"depth": PARAMS["runs"]["depth"]},
        "training": PARAMS["training"] | {"epochs": 1, "batch_size": 2},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    put_blank_store(folder)
    shutil.copy(root / "dvc.yaml", folder)
    shutil.copytree(root / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    own = {"PYTHONPATH": str(root), "PIPELINE_DEVICE": "cpu", "DVC_ROOT": str(folder)}
    return os.environ | own | {"PIPELINE_WORKERS": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def ready(root, tmp_path_factory):
    """A project in which every stage has run once, by hand, as a process that imports what it needs of ours itself."""
    folder = tmp_path_factory.mktemp("ready")
    environment = make_project(folder, root)
    stages = json.dumps([(name, *STAGES[name][1:]) for name in ORDER])
    command = [sys.executable, "-m", "tests.support.bare_stages"]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, input=stages)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, environment


ORDER = ("download", "prepare", "selection", "adoption", "train", "evaluate", "compare", "report")


@pytest.mark.parametrize(
    ("name", "kind"),
    # `evaluate` removes its pictures before it fails, and `report` then misses those: it comes last.
    [("report", "read-only"), ("selection", "no files"), *((name, "full") for name in STAGES)],
)
@pytest.mark.slow
def test_every_stage_says_it_in_one_line_and_runs_again(ready, name, kind):
    folder, environment = ready
    place, *arguments = STAGES[name]
    failing = ("tests.support.failing_calls", kind, str(folder / place), name, *arguments)
    code, output = forked.run(folder, failing, environment)
    assert code == 2 and "Traceback" not in output, output
    messages = [line for line in output.splitlines() if not line.startswith("warning:")]
    assert len(messages) == 1 and place in messages[0], output
    assert not [path for path in folder.rglob("*.partial")]
