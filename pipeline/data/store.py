"""The prepared dataset: each split packed into a few flat files that are memory-mapped for reading.

    dataset.json                 what it holds: dataset, tasks, class names, splits, digest
    <split>/index.json           ids, size and checksum of every array, and how many pixels of every label are valid
    <split>/image.bin            (H, W, 3) uint8, one image after the other
    <split>/<task>.bin           label values in the dataset's own type: nothing is rounded or resized
    <split>/<task>.valid.bin     one bit a pixel

Ten thousand samples are a dozen files, which is what makes `dvc status` quick, and reading one is a slice of memory.

Every array is compared with its checksum when a process first reads it, and JSON holds its own, so that a byte that
changed on disk is found before a network learns from it. DVC does not see it: it trusts size and time of a file, and
links from its cache a file that changed there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.core import forms, paths, removal
from pipeline.core.errors import DataError
from pipeline.data.flat_file import FlatFile, FlatFileWriter
from pipeline.data.sample import Label, Sample, decode_normals, is_coded

_BLOCK = 1 << 22
_SHOWN = 5  # samples that a message names
_MISSING = "run `dvc repro prepare` first"


@dataclass(frozen=True)
class DatasetInfo:
    """What training, evaluation and the report need to know of the dataset; written by `prepare`.

    splits: number of samples by split. digest: sha256 over every packed byte, so equal digest means equal data.
    skipped: ids of broken samples that were left out, by split. published: whether it is all of the published dataset,
    so that scores on it are those of the literature's split.
    """

    dataset: str
    tasks: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]
    edge_max_dist: float
    splits: dict[str, int]
    digest: str
    skipped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    published: bool = False

    def check_scored(self, split: str) -> None:
        """Raise DataError unless there is the split that evaluation.split names."""
        if split not in self.splits:
            raise DataError(
                f"evaluation.split is {split}, but the prepared data of {self.dataset} has no such split, only "
                f"{', '.join(self.splits)}: name the file of its ids in dataset.yaml, as splits.{split}, and prepare "
                "again, or set evaluation.split to val"
            )

    def channels(self, task: str, fixed: int | None) -> int:
        """Channels of a task's prediction: the task's own number, or the dataset's count of classes."""
        return fixed if fixed is not None else len(self.classes[task])


def _no_sample() -> str:
    return "; it needs at least one sample"


def write_split(
    folder: Path, samples: Iterable[Sample], tasks: Iterable[str], why_empty: Callable[[], str] = _no_sample
) -> int:
    """Pack `samples` into `folder` and return their number. The labels of `tasks` must be present in each.

    Raises DataError for a sample that breaks the contract of `Sample` or comes twice, and for none at all; `why_empty`
    ends that message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = tuple(tasks)
    names = ["image", *(name for task in tasks for name in (task, f"{task}.valid"))]
    writers = {name: FlatFileWriter(folder / f"{name}.bin") for name in names}
    ids: list[str] = []
    valid: dict[str, list[int]] = {task: [] for task in tasks}
    for sample in samples:
        check_sample(sample, tasks)
        ids.append(sample.id)
        writers["image"].add(sample.image)
        for task in tasks:
            writers[task].add(sample.labels[task].value)
            writers[f"{task}.valid"].add(sample.labels[task].valid, packed=True)
            valid[task].append(int(np.count_nonzero(sample.labels[task].valid)))
    fields = {name: writer.close() for name, writer in writers.items()}
    if not ids:
        raise DataError(f"the split '{folder.name}' is empty{why_empty()}")
    if len(set(ids)) != len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        raise DataError(f"the split '{folder.name}' names {len(twice)} ids twice, the first: {twice[0]}")
    paths.write_json(folder / "index.json", {"ids": ids, "fields": fields, "valid_pixels": valid})
    return len(ids)


def check_sample(sample: Sample, tasks: Iterable[str]) -> None:
    """Raise DataError unless image and labels have the types and shapes of `Sample`, and finite values."""
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
        if label.value.shape != shape or (label.value.dtype != expected and not is_coded(label.value)):
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


def replace_folder(new: Path, target: Path, old: Path) -> None:
    """Put the finished folder `new` in the place of `target`, which moves to `old` first: both are renamed, whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    with suppress(OSError):  # whoever made its folder removes that too
        removal.remove(old, old.parent)


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write dataset.json. Raises OSError."""
    paths.write_json(folder / "dataset.json", asdict(info))


def read_info(folder: Path = paths.PREPARED) -> DatasetInfo:
    """Read dataset.json. Raises DataError, with the remedy, for one that is missing or damaged."""
    names = [field.name for field in fields(DatasetInfo)]
    raw = paths.read_json(folder / "dataset.json", *names, missing=_MISSING)
    return DatasetInfo(
        dataset=raw["dataset"],
        tasks=tuple(raw["tasks"]),
        classes={task: tuple(names) for task, names in raw["classes"].items()},
        edge_max_dist=raw["edge_max_dist"],
        splits=raw["splits"],
        digest=raw["digest"],
        skipped={split: tuple(ids) for split, ids in raw["skipped"].items()},
        published=raw["published"],
    )


def read_index(folder: Path) -> dict[str, Any]:
    """index.json of a split. Raises DataError, with the remedy, where it is missing or damaged."""
    return paths.read_json(folder / "index.json", "ids", "fields", "valid_pixels", missing=_MISSING)


def damaged_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, what is wrong with it) of every file of a split that is not as it was packed; reads all of them.

    Raises DataError where the index itself is damaged or missing.
    """
    index = read_index(folder)
    for name, arrays in index["fields"].items():
        path = folder / f"{name}.bin"
        try:
            file = FlatFile(path, index["ids"], **arrays)
        except DataError as error:
            yield path, str(error).removeprefix(f"{path} ").partition(";")[0]
            continue
        if damaged := [sample for i, sample in enumerate(index["ids"]) if not file.is_whole(i)]:
            more = f", ... ({len(damaged)} in all)" if len(damaged) > _SHOWN else ""
            yield path, f"is damaged: not what was packed are the samples {', '.join(damaged[:_SHOWN])}{more}"


class Store:
    """One split of a prepared dataset, or a selection of it, as a sequence of samples.

    Reading copies nothing but the valid masks. ids: the samples' names, in order. Raises DataError, with the file and
    the remedy, for a split that is missing or lacks tasks, and, then or when it is read, for what is damaged.
    """

    def __init__(self, folder: Path, tasks: Iterable[str]):
        self.tasks = tuple(tasks)
        index = read_index(folder)
        self.ids = forms.check_ids(folder / "index.json", index["ids"])
        self._rows = np.arange(len(self.ids))
        absent = [task for task in self.tasks if task not in index["fields"]]
        if absent:
            raise DataError(f"{folder} has no labels for {', '.join(absent)}; add them to data.tasks and prepare again")
        names = ["image", *(name for task in self.tasks for name in (task, f"{task}.valid"))]
        self._fields = {name: FlatFile(folder / f"{name}.bin", self.ids, **index["fields"][name]) for name in names}
        self._valid_pixels = {task: np.array(index["valid_pixels"][task]) for task in self.tasks}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(i)
        image = self._fields["image"][self._rows[i]]
        return Sample(self.ids[i], image, {task: self.label(task, i) for task in self.tasks})

    def label(self, task: str, i: int) -> Label:
        """The label of sample `i`, normals as unit vectors. Raises DataError for one that is damaged."""
        row = self._rows[i]
        value = self._fields[task][row]
        return Label(decode_normals(value) if is_coded(value) else value, self._fields[f"{task}.valid"][row])

    def labels(self, task: str) -> Iterator[Label]:
        """The labels of one task, without touching the images."""
        return (self.label(task, i) for i in range(len(self)))

    def select(self, which: Sequence[int] | np.ndarray) -> Self:
        """The samples at the positions `which`, in that order, without copying data."""
        chosen = copy.copy(self)
        chosen._rows = self._rows[np.asarray(which, dtype=np.intp)]
        chosen.ids = [self.ids[i] for i in which]
        return chosen

    def labelled(self) -> Self:
        """The samples that have a valid pixel for at least one of the store's tasks: the others teach nothing."""
        pixels = sum(self._valid_pixels[task][self._rows] for task in self.tasks)
        return self.select(np.flatnonzero(pixels))

    def label_counts(self) -> dict[str, int]:
        """{task: number of samples that have a valid pixel for it}."""
        return {task: int(np.count_nonzero(self._valid_pixels[task][self._rows])) for task in self.tasks}
