"""The prepared dataset: each split packed into a few flat files that are memory-mapped for reading.

    dataset.json                 what it holds: dataset, tasks, class names, splits, digest
    <split>/index.json           ids and the size of every array
    <split>/image.bin            (H, W, 3) uint8, one image after the other
    <split>/<task>.bin           label values in the dataset's own type: nothing is rounded or resized
    <split>/<task>.valid.bin     one bit a pixel

Ten thousand samples are a dozen files, which is what makes `dvc status` quick, and reading one is a slice of memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline import paths
from pipeline.datasets.sample import Label, Sample
from pipeline.errors import DataError

_BLOCK = 1 << 22


@dataclass(frozen=True)
class DatasetInfo:
    """What training, evaluation and the report need to know of the dataset; written by `prepare`.

    splits: number of samples by split. digest: sha256 over every packed byte, so equal digest means equal data.
    """

    dataset: str
    tasks: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]
    edge_max_dist: float
    splits: dict[str, int]
    digest: str

    def channels(self, task: str, fixed: int | None) -> int:
        """Channels of a task's prediction: the task's own number, or the dataset's count of classes."""
        return fixed if fixed is not None else len(self.classes[task])


class _Writer:
    """Appends one kind of array to a flat file."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self.dtype: str | None = None
        self.shapes: list[list[int]] = []

    def add(self, array: np.ndarray, packed: bool = False) -> None:
        dtype = "bits" if packed else array.dtype.str
        if self.dtype not in (None, dtype):
            raise DataError(f"{self._file.name}: arrays of {dtype} and of {self.dtype} in one split")
        self.dtype = dtype
        self.shapes.append(list(array.shape))
        self._file.write(np.packbits(array).tobytes() if packed else np.ascontiguousarray(array).tobytes())

    def close(self) -> dict:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"dtype": self.dtype, "shapes": self.shapes}


def write_split(folder: Path, samples: Iterable[Sample], tasks: Iterable[str]) -> int:
    """Pack `samples` into `folder` and return their number. The labels of `tasks` must be present in each."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = tuple(tasks)
    names = ["image", *(name for task in tasks for name in (task, f"{task}.valid"))]
    writers = {name: _Writer(folder / f"{name}.bin") for name in names}
    ids: list[str] = []
    for sample in samples:
        _check(sample, tasks)
        ids.append(sample.id)
        writers["image"].add(sample.image)
        for task in tasks:
            writers[task].add(sample.labels[task].value)
            writers[f"{task}.valid"].add(sample.labels[task].valid, packed=True)
    fields = {name: writer.close() for name, writer in writers.items()}
    if not ids:
        raise DataError(f"the split '{folder.name}' is empty; it needs at least one sample")
    if len(set(ids)) != len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        raise DataError(f"the split '{folder.name}' names {len(twice)} ids twice, the first: {twice[0]}")
    paths.write_json(folder / "index.json", {"ids": ids, "fields": fields})
    return len(ids)


def _check(sample: Sample, tasks: tuple[str, ...]) -> None:
    from pipeline.tasks import get_task  # imports torch: here, so that the processes that only decode do without

    image = sample.image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"sample {sample.id}: image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    for task in tasks:
        if task not in sample.labels:
            raise DataError(f"sample {sample.id}: no label for {task}")
        label = sample.labels[task]
        if label.valid.dtype != np.bool_ or label.valid.shape != label.value.shape[:2]:
            raise DataError(
                f"sample {sample.id}: the valid mask of {task} is {label.valid.dtype} {label.valid.shape}, "
                f"expected bool {label.value.shape[:2]}"
            )
        expected = np.dtype(np.uint8 if get_task(task).categorical else np.float32)
        channels = get_task(task).label_channels
        shape = label.valid.shape if channels == 1 else (*label.valid.shape, channels)
        if label.value.dtype != expected or label.value.shape != shape:
            raise DataError(
                f"sample {sample.id}: the label of {task} is {label.value.dtype} {label.value.shape}, "
                f"expected {expected} {shape}"
            )
        if label.value.dtype.kind == "f" and not np.isfinite(label.value[label.valid]).all():
            raise DataError(f"sample {sample.id}: {task} has values that are not finite where it is valid")


def digest(folder: Path, facts: object = None) -> str:
    """sha256 over the names and bytes of all packed files below `folder`, and over `facts` that go with them."""
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in sorted(folder.glob("*/*")):
        total.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                total.update(block)
    return total.hexdigest()


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder `new` in the place of `target`."""
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(new, target)


def write_info(folder: Path, info: DatasetInfo) -> None:
    paths.write_json(folder / "dataset.json", asdict(info))


def read_info(folder: Path = paths.PREPARED) -> DatasetInfo:
    """Read dataset.json; DataError says what to run when there is none."""
    try:
        raw = json.loads((folder / "dataset.json").read_text())
    except FileNotFoundError:
        raise DataError(f"no prepared dataset in {folder}; run `dvc repro prepare` first") from None
    return DatasetInfo(
        dataset=raw["dataset"],
        tasks=tuple(raw["tasks"]),
        classes={task: tuple(names) for task, names in raw["classes"].items()},
        edge_max_dist=raw["edge_max_dist"],
        splits=raw["splits"],
        digest=raw["digest"],
    )


class _Field:
    """One memory-mapped flat file and where each of its arrays begins."""

    def __init__(self, path: Path, dtype: str, shapes: list[list[int]]):
        self._packed = dtype == "bits"
        self._dtype = np.dtype(np.uint8 if self._packed else dtype)
        self._shapes = [tuple(shape) for shape in shapes]
        counts = np.array([int(np.prod(shape)) for shape in self._shapes], dtype=np.int64)
        sizes = (counts + 7) // 8 if self._packed else counts
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        expected = int(self._starts[-1]) * self._dtype.itemsize
        found = path.stat().st_size if path.exists() else None
        if found != expected:
            raise DataError(
                f"{path} holds {found} bytes where its index says {expected}; "
                "remove data/prepared and run `dvc repro prepare` again"
            )
        self._data = np.memmap(path, dtype=self._dtype, mode="r")

    def __getitem__(self, i: int) -> np.ndarray:
        shape = self._shapes[i]
        flat = self._data[self._starts[i] : self._starts[i + 1]]
        if self._packed:
            return np.unpackbits(flat, count=int(np.prod(shape))).view(np.bool_).reshape(shape)
        return np.asarray(flat).reshape(shape)


class Store:
    """One split of a prepared dataset, as a sequence of samples. Reading copies nothing but the valid masks."""

    def __init__(self, folder: Path, tasks: Iterable[str]):
        self.tasks = tuple(tasks)
        try:
            index = json.loads((folder / "index.json").read_text())
        except FileNotFoundError:
            raise DataError(f"no prepared split in {folder}; run `dvc repro prepare` first") from None
        self.ids: list[str] = index["ids"]
        absent = [task for task in self.tasks if task not in index["fields"]]
        if absent:
            raise DataError(f"{folder} has no labels for {', '.join(absent)}; add them to data.tasks and prepare again")
        names = ["image", *(name for task in self.tasks for name in (task, f"{task}.valid"))]
        self._fields = {name: _Field(folder / f"{name}.bin", **index["fields"][name]) for name in names}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return Sample(self.ids[i], self._fields["image"][i], {task: self.label(task, i) for task in self.tasks})

    def label(self, task: str, i: int) -> Label:
        return Label(self._fields[task][i], self._fields[f"{task}.valid"][i])

    def labels(self, task: str) -> Iterator[Label]:
        """The labels of one task, without touching the images."""
        return (self.label(task, i) for i in range(len(self)))
