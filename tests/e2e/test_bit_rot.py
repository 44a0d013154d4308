"""One bit that changed on disk: found before a number is made from it, in one message, or without effect on any number.

A small project is trained, scored and reported once, in this process; each test changes a bit of one of its files and
runs the stages and commands that read it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.data.flat_file import FlatFile
from pipeline.data.store import Store, damaged_files
from pipeline.loading.loader import TrainingBatches
from pipeline.results.comparison import Comparison
from pipeline.results.run_metrics import RunMetrics
from pipeline.results.run_record import RunRecord
from pipeline.tools.verification import verify
from pipeline.train import resume
from stages import doctor
from tests.support.project import ALONE, ROOT, Project
from tests.support.readers import COMMANDS, PARAMS, flipped, made, numbers, run, stage

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project, which is the working folder."""
    with made(tmp_path_factory.mktemp("rot")) as folder:
        yield folder


SPLITS = ("image", "semseg", "semseg.valid", "depth", "depth.valid")
TRAIN = {f"data/prepared/train/{name}.bin": ("train fused",) for name in SPLITS}
VAL = {f"data/prepared/val/{name}.bin": ("report",) for name in SPLITS[1:]}  # of images, it shows one
VAL |= {f"data/prepared/val/{name}.bin": ("evaluate",) for name in SPLITS[:3]}
BYTES = {
    "models/semseg-0/weights.safetensors": ("evaluate", "predict", "train fused"),
    "reports/history/semseg-0.csv": ("report",),
    "reports/panels/semseg-0/predictions.safetensors": ("report",),
    "reports/statistics/semseg-0.parquet": ("compare", "report"),
    **TRAIN,
    **VAL,
}


@pytest.mark.parametrize("at", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", BYTES)
def test_a_bit_of_what_holds_numbers_is_found_by_whatever_reads_it(project, capsys, name, at):
    path, before = Path(name), numbers()
    with flipped(path, at, bit=2):
        for command in BYTES[name]:
            code, message = run(COMMANDS[command], capsys)
            assert code == 2 and name in message and "stages.doctor --verify --fix" in message, (command, message)
            assert numbers() == before | {name: path.read_bytes()} if name in before else numbers() == before
        assert [damage.path for damage in verify()] == [path]


JSON = {
    "data/prepared/dataset.json": ("train", "evaluate", "report"),
    "data/prepared/train/index.json": ("train", "evaluate", "report"),
    "data/prepared/val/index.json": ("train", "evaluate", "report"),
    "reports/packed_from.json": (),  # by trace, where there is no data
    "data/raw/source.json": (),  # read by prepare, below
    "models/digests/semseg-0.json": ("single_task_weights",),
    "models/start/fused-0.json": ("train fused",),
    "models/semseg-0/run.json": ("evaluate", "trace", "predict"),
    "models/selection.json": (),  # by DVC alone
    "models/adoption.json": (),  # likewise
    "reports/metrics/semseg-0.json": ("compare", "report", "trace"),
    "reports/delta.json": ("show", "report"),
    "reports/panels/semseg-0/confusion.json": ("report",),
}


@pytest.mark.parametrize("at", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", JSON)
def test_a_bit_of_json_is_found_by_whatever_reads_it(project, capsys, name, at):
    with flipped(Path(name), at, bit=0):
        for command in JSON[name]:
            code, message = run(COMMANDS[command], capsys)
            assert code == 2 and name in message and "run `" in message, (command, message)
            assert len(message.splitlines()) == 1
        assert [damage.path for damage in verify()] == [Path(name)]


def test_every_digit_of_a_score_counts(project, capsys):
    """A digit that becomes another leaves valid JSON with another score."""
    path = paths.metrics_file("semseg", 0)
    content = path.read_bytes()
    score = content.index(b'"mIoU": ') + len(b'"mIoU": ')
    for place in range(score, content.index(b",", score)):
        if content[place : place + 1].isdigit():
            with flipped(path, place / len(content) + 1e-9, bit=0):
                code, message = run(COMMANDS["compare"], capsys)
                assert code == 2 and f"{path} is damaged: it has changed since it was written" in message


WRONG = {
    "missing": None, "empty": "", "cut": '{"a": 1', "no JSON": "a: 1", "not text": b"\xff\xfe", "a list": "[]",
    "a number": "1", "null": "null", "no keys": "{}", "deep": "[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", [name for name in JSON if JSON[name]])
def test_json_that_is_not_what_a_stage_wrote_is_named_with_its_remedy(project, capsys, name, wrong):
    path, command = Path(name), COMMANDS[JSON[name][0]]
    with flipped(path, 0, bit=0):
        path.unlink() if wrong is None else path.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
        code, message = run(command, capsys)
        assert code == 2 and name in message and ("`dvc repro" in message or "copy it from" in message), message
        assert len(message.splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in JSON if JSON[name]])
def test_json_without_a_key_that_is_needed_is_named(project, capsys, name):
    path = Path(name)
    with flipped(path, 0, bit=0):
        path.unlink()
        paths.write_json(path, {"something": "else"})
        code, message = run(COMMANDS[JSON[name][0]], capsys)
        assert code == 2 and name in message and len(message.splitlines()) == 1, message


RESULTS = ("models/semseg-0/run.json", "reports/metrics/semseg-0.json", "reports/delta.json")
WRITTEN_BY = dict(zip(RESULTS, ("train", "evaluate", "compare"), strict=True))
VERSIONS = {name: kind.version for name, kind in zip(RESULTS, (RunRecord, RunMetrics, Comparison), strict=True)}


@pytest.mark.parametrize("version", [None, 0, 9], ids=["none", "older", "newer"])
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_of_another_version_is_refused_by_whatever_reads_it_and_left_by_the_doctor(
    project, capsys, name, version
):
    path = Path(name)
    content = paths.read_json(path) | {"version": version}
    with flipped(path, 0, bit=0):
        path.unlink()
        paths.write_json(path, {key: value for key, value in content.items() if value is not None or key != "version"})
        kept = path.read_bytes()
        named = "no version" if version is None else f"version {version}"
        for command in JSON[name]:
            code, message = run(COMMANDS[command], capsys)
            assert code == 2 and len(message.splitlines()) == 1, (command, message)
            assert message.startswith(f"{name} is of {named}, this code reads version {VERSIONS[name]}; run `dvc repro")
            # Where nobody says of which run it is, all is asked for: runs of either family have stages of their own.
            assert "`dvc repro` to write" in message or WRITTEN_BY[name] in message
        (damage,) = verify()
        assert (damage.path, damage.removable) == (path, False)
        assert f"this code reads version {VERSIONS[name]}" in damage.what
        code = run(stage(doctor.main, "--verify", "--fix", parser=doctor.parser()), capsys)[0]
        assert code == 1 and path.read_bytes() == kept


# ---- reading in blocks ---------------------------------------------------------------------------------------


def test_a_sample_is_looked_at_once_and_named_when_it_is_read(project, monkeypatch):
    looked: list[int] = []
    is_whole = FlatFile.is_whole
    monkeypatch.setattr(FlatFile, "is_whole", lambda file, i: looked.append(i) or is_whole(file, i))
    store = Store(paths.PREPARED / "train", ["semseg"])
    for _ in range(3):
        for i in range(len(store)):
            store[i]
    assert len(looked) == 3 * len(store)  # image, value and mask, of all three passes
    path = paths.PREPARED / "train" / "semseg.bin"
    with flipped(path, 0.5, bit=0):  # of sample 3 of 6
        store = Store(paths.PREPARED / "train", ["semseg"])
        for i in (0, 1, 2, 4, 5):
            store[i]
        with pytest.raises(DataError, match=f"{path} is damaged: sample {store.ids[3]} is not what was packed; run"):
            store[3]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_ends_an_epoch_in_one_line_from_workers_too(project, monkeypatch, workers):
    monkeypatch.setattr("pipeline.loading.loader._PREFETCH_WORKERS", workers)
    path = paths.PREPARED / "train" / "image.bin"
    with flipped(path, 0.5, bit=0):
        monkeypatch.setattr("torch.Tensor.pin_memory", lambda tensor: tensor)
        batches = TrainingBatches(Store(paths.PREPARED / "train", ["semseg"]), (32, 32), 2, 0, on_gpu=workers > 0)
        with pytest.raises(DataError, match=f"^{path} is damaged: sample .*dvc repro`$"):
            list(batches.epoch(0))
    if workers:  # collected as garbage, after its queues, it would wait 20 s for workers that no queue can end any more
        batches._loader._iterator._shutdown_workers()


# ---- the doctor ----------------------------------------------------------------------------------------------


def test_the_doctor_finds_a_damaged_checkpoint_and_removes_it(project, capsys):
    with resume.attempt("k") as attempt:
        attempt.save({"a": 1}, [], 0.0)
    path = attempt.folder / "checkpoint.pt"
    with flipped(path, 0.5, bit=0):
        (found,) = verify()
        assert found.path == path and "has changed since it was written" in found.what
        found.remove()
        assert not path.exists() and list(verify()) == []


UNREADABLE = (
    "models/semseg-0/weights.safetensors", "models/semseg-0/run.json", "reports/history/semseg-0.csv",
    "reports/panels/semseg-0/predictions.safetensors", ".runs/train/k/checkpoint.pt",
)  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_now_is_reported_and_left(project, capsys, monkeypatch, name):
    """Rights, too many open files, a network's disk that is unreachable: the bytes may be sound."""
    with resume.attempt("k") as attempt:
        attempt.save({"a": 1}, [], 0.0)
    opened = io.open

    def refuse(file, *arguments, **options):
        if str(file).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *arguments, **options)

    with flipped(paths.metrics_file("semseg", 0), 0, bit=0):
        shutil.copy("kept/metrics/semseg-0.json", paths.METRICS)  # `flipped` puts all back at the end
        with monkeypatch.context() as patch:
            patch.setattr("io.open", refuse)
            found = [damage for damage in verify() if str(damage.path).endswith(name)]
        assert found and not any(damage.removable for damage in found) and Path(name).exists()


def test_a_copy_that_a_person_made_says_nothing_of_the_files_of_now(project):
    with flipped(paths.metrics_file("semseg", 0), 0, bit=0):
        shutil.copy("kept/metrics/semseg-0.json", paths.METRICS)
        shutil.copytree("models/semseg-0", "models/semseg-before")
        record = paths.read_json(Path("models/semseg-before/run.json"))
        paths.write_json(Path("models/semseg-before/run.json"), record | {"history_sha256": "0" * 64})
        scored = paths.read_json(paths.metrics_file("semseg", 0))
        paths.write_json(paths.METRICS / "before.json", scored | {"predictions_sha256": "0" * 64})
        try:
            assert list(verify()) == []
        finally:
            shutil.rmtree("models/semseg-before")


def test_where_the_cache_is_linked_and_rots_along_the_advice_of_the_message_helps(tmp_path):
    """To prepare again is not enough: DVC finds the file's name in its cache, and links the damaged file again."""
    root = tmp_path / "project"
    root.mkdir()
    params = yaml.safe_load((ROOT / "profiles/rooms.yaml").read_text())
    params["data"] |= {"tasks": ["semseg"], "rooms": {"seed": 0, "train": 6, "val": 3, "size": [32, 32]}}
    params["training"] |= {"backbone": "test_resnet", "input_size": [32, 32], "batch_size": 3, "epochs": 1}
    project = Project(root, params | {"runs": {"semseg": PARAMS["runs"]["semseg"]}, "seeds": [0]})
    project.variables = ALONE
    project.dvc("config", "cache.type", "hardlink")
    project.dvc("repro", "prepare", "selection", "adoption")
    path = root / "data/prepared/train/image.bin"
    assert path.stat().st_nlink > 1, "the file system has hard links"
    whole, times = path.read_bytes(), path.stat()

    def rot() -> None:
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(5)
            file.write(bytes([whole[5] ^ 1]))
        path.chmod(0o444)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    rot()
    damaged = path.read_bytes()
    message = project.fails("train", "--run", "semseg", "--seed", "0")
    assert "data/prepared/train/image.bin is damaged: sample " in message and "--verify --fix" in message
    project.dvc("repro", "-f", "prepare")
    assert path.read_bytes() == damaged, "DVC trusts its cache"
    found = project.stage("doctor", "--verify", "--fix")
    assert "data/prepared/train/image.bin is damaged: not what was packed are the samples" in found
    assert "is damaged: its MD5 is not its name" in found
    project.dvc("repro", "prepare")
    assert path.read_bytes() == whole and list(damaged_files(path.parent)) == []

    # Where DVC copies, what lies here may be whole: it is put into the cache, and no stage runs again.
    project.dvc("config", "cache.type", "copy")
    project.dvc("checkout", "--relink", "data/prepared")
    name = hashlib.md5(whole).hexdigest()
    path, times = root / ".dvc/cache/files/md5" / name[:2] / name[2:], path.stat()
    rot()
    assert "data/prepared/train/image.bin, which is whole" in project.stage("doctor", "--verify", "--fix")
    assert path.read_bytes() == whole and "Running stage" not in project.dvc(
        "repro", "prepare", "selection", "adoption"
    )
