"""Bytes that change at rest, in every kind of file: what reads them ends as without it, or refuses in one message.

The file keeps its size where the damage does and its times always, as on a disk that rots: DVC, which has hashed it
before, does not look again. Where that is a link into DVC's cache, the cache rots with it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.bench import Bench, repro
from tests.faults.commands import KILL, Fault
from tests.faults.example import ARCHIVE, RUN
from tests.faults.kills import again
from tests.faults.verdict import FAULT, IDENTICAL, REFUSED, Case, Verdict, left, message, not_clear
from tests.support.nyud_archive import TOP, nyud_files

REMEDY = "--verify --fix"  # of doctor, where a message names it
TRAIN, EVALUATE = f"train@{RUN}", f"evaluate@{RUN}"
DONE = "done"
Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A file, the state of the project in which it is damaged, and the command that reads it.

    start: `done`, or the stage before which the example is; `killed`: in the middle of a training. text: whether
    another type is something that a damage can make of it. gone: a file that DVC has to bring back for the command.
    blind: kinds of damage that make another valid file, which nobody can tell from one that was edited.
    """

    path: str
    command: tuple[str, ...]
    start: str = DONE
    text: bool = False
    gone: str | None = None
    blind: tuple[str, ...] = ()


def forced(stage: str) -> tuple[str, ...]:
    return "dvc", "repro", "--force", "--single-item", stage


TARGETS = {
    "weights": Target(f"models/{RUN}/weights.safetensors", forced(EVALUATE)),
    "run.json": Target(f"models/{RUN}/run.json", forced(EVALUATE), text=True),
    "predicted": Target(f"models/{RUN}/weights.safetensors", ("stages.predict", f"models/{RUN}", "photo.jpg")),
    "prediction's": Target(f"models/{RUN}/run.json", ("stages.predict", f"models/{RUN}", "photo.jpg"), text=True),
    "selection": Target("models/selection.json", forced(TRAIN), text=True),
    "adoption": Target("models/adoption.json", forced(TRAIN), text=True),
    "train images": Target("data/prepared/train/image.bin", forced(TRAIN)),
    "train labels": Target("data/prepared/train/semseg.bin", forced(TRAIN)),
    "train masks": Target("data/prepared/train/semseg.valid.bin", forced(TRAIN)),
    "train index": Target("data/prepared/train/index.json", forced(TRAIN), text=True),
    "dataset": Target("data/prepared/dataset.json", forced(TRAIN), text=True),
    "val images": Target("data/prepared/val/image.bin", forced(EVALUATE)),
    "val labels": Target("data/prepared/val/semseg.bin", forced(EVALUATE)),
    "val index": Target("data/prepared/val/index.json", forced(EVALUATE), text=True),
    "packed from": Target("reports/packed_from.json", forced("prepare"), text=True),
    "reported data": Target("data/prepared/train/semseg.bin", forced("report")),
    "metrics": Target(f"reports/metrics/{RUN}.json", forced("compare"), text=True),
    "reported metrics": Target(f"reports/metrics/{RUN}.json", forced("report"), text=True),
    "history": Target(f"reports/history/{RUN}.csv", forced("report"), text=True),
    "predictions": Target(f"reports/panels/{RUN}/predictions.safetensors", forced("report")),
    "statistics": Target(f"reports/statistics/{RUN}.parquet", forced("compare")),
    "delta": Target("reports/delta.json", forced("report"), text=True),
    "shown delta": Target("reports/delta.json", ("stages.compare", "--show"), text=True),
    "archive": Target("data/raw/NYUD_MT.tgz", forced("prepare")),
    "source": Target("data/raw/source.json", forced("prepare"), text=True),
    "own archive": Target(ARCHIVE, forced("download")),
    "digest": Target(f"models/digests/{RUN}.json", ("dvc", "repro", "single_task_weights@stitched-0"),
                     "single_task_weights@stitched-0", text=True),
    "start": Target("models/start/stitched-0.json", repro("train_from_single_task@stitched-0"),
                    "train_from_single_task@stitched-0", text=True),
    "start's weights": Target(f"models/{RUN}/weights.safetensors", repro("train_from_single_task@stitched-0"),
                              "train_from_single_task@stitched-0"),
    "checkpoint": Target(".runs/train/*/checkpoint.pt", repro(TRAIN), "killed"),
    "attempts": Target(".runs/train/*/attempts.json", repro(TRAIN), "killed", text=True),
    "params.yaml": Target("params.yaml", ("dvc", "repro"), text=True, blind=("flip",)),
    "dvc.yaml": Target("dvc.yaml", ("dvc", "repro"), text=True, blind=("flip",)),
    "dvc.lock": Target("dvc.lock", ("dvc", "repro"), text=True),
    "cached weights": Target(f"models/{RUN}/weights.safetensors", ("dvc", "repro"), gone=f"models/{RUN}"),
    "cached data": Target("data/prepared/train/image.bin", ("dvc", "repro"), gone="data/prepared"),
    "database": Target("mlflow.db", forced(EVALUATE), blind=("flip",)),
    "looked at database": Target("mlflow.db", ("stages.doctor",), blind=("flip",)),
    "DVC's config": Target(".dvc/config", ("dvc", "repro"), text=True, blind=("flip",)),
}  # fmt: skip

KINDS: dict[str, Damage] = {
    "flip": lambda content, chance: flipped(content, chance.randrange(8 * len(content))),
    "cut": lambda content, chance: content[: chance.randrange(1, len(content))],
    "empty": lambda content, chance: b"",
    "random": lambda content, chance: chance.randbytes(len(content)),
    "type": lambda content, chance: chance.choice([b"[]\n", b'"text"\n', b"null\n", b"{}\n", b"7\n"]),
}


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cases(bench: Bench, count: int, chance: random.Random) -> Iterator[Case]:
    """`count` of all pairs of a file and a damage, every file once before one comes twice."""
    rounds = {name: chance.sample(kinds, len(kinds)) for name in TARGETS if (kinds := list(kinds_of(name)))}
    pairs = [(name, kinds[i]) for i in range(len(KINDS)) for name, kinds in rounds.items() if i < len(kinds)]
    for name, kind in pairs[:count]:
        yield case(f"corrupt {kind} {chance.randrange(1000)} {name}")


def kinds_of(name: str) -> Iterator[str]:
    target = TARGETS[name]
    for kind in KINDS:
        if kind not in target.blind and (kind != "type" or target.text):
            yield kind


def case(name: str) -> Case:
    """The case of an id, `corrupt KIND SEED FILE`."""
    _, kind, seed, target = name.split(maxsplit=3)
    return Case(name, partial(attempt, target, kind, int(seed)))


def attempt(name: str, kind: str, seed: int, bench: Bench) -> Verdict:
    """Damage the file, and run what reads it."""
    target = TARGETS[name]
    folder = start(bench, target)
    try:
        (path,) = folder.glob(target.path)
        bench.launcher.run(folder, "dvc", "status")  # DVC has hashed everything and will not do so again
        damage(path, KINDS[kind], random.Random(f"{seed} {kind} {name}"))
        if target.gone:
            shutil.rmtree(folder / target.gone)
        where = path.relative_to(folder).as_posix()
        done = again(bench, folder, target.command)
        if done.code != 0:
            problem = not_clear(done) or (after_remedy(bench, folder) if REMEDY in done.output else None)
            return Verdict(FAULT if problem else REFUSED, where, problem or message(done), done.output)
        ignoring = (f"file {where}", "cache ", *(("MLflow ",) if where == "mlflow.db" else ()))
        difference = left(folder, expected(bench, target), ignoring)
        return Verdict(FAULT if difference else IDENTICAL, where, difference or "", done.output)
    finally:
        bench.remove(folder)


def after_remedy(bench: Bench, folder: Path) -> str | None:
    """What is wrong after a user has done what the message says; None where all files are as they were."""
    mended = bench.launcher.run(folder, "stages.doctor", *REMEDY.split())
    done = again(bench, folder, ("dvc", "repro"))
    if done.code != 0:
        return f"the remedy does not help: {message(mended)} / {message(done)}"
    return left(folder, bench.finished(folder), ("MLflow ", "cache ", "file photo.jpg", "file .runs/"))


def damage(path: Path, how: Damage, chance: random.Random) -> None:
    """Change a file in place, and with it what is linked to it; its times stay."""
    before = path.stat()
    path.chmod(0o644)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(how(content, chance))
        file.truncate()
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def start(bench: Bench, target: Target) -> Path:
    """A copy of the project as it is when the damage comes."""
    folder = bench.copy(bench.before(TRAIN if target.start == "killed" else target.start))
    make_photo(folder)
    if target.start != "killed":
        return folder
    calls = bench.undisturbed(TRAIN, repro(TRAIN), TRAIN).calls
    written = [n for n, call in enumerate(calls, 1) if call.startswith("rename") and call.endswith("checkpoint.pt")]
    bench.launcher.run(folder, *repro(TRAIN), fault=Fault(TRAIN, written[-1] + 1, KILL))
    return folder


def make_photo(folder: Path) -> None:
    """What stages.predict is given."""
    (folder / "photo.jpg").write_bytes(nyud_files()[f"{TOP}/images/0000.jpg"])


def expected(bench: Bench, target: Target) -> dict[str, object]:
    """What the command leaves where nothing is damaged."""
    stage = TRAIN if target.start == "killed" else target.start
    return bench.undisturbed(stage, target.command, prepared=make_photo).outcome
