"""From raw data to the packed store: read every sample once, in parallel, in a fixed order, and check it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout
from tqdm import tqdm

from pipeline.core import paths, removal
from pipeline.core.errors import DataError
from pipeline.core.workers import end_with_parent, worker_count
from pipeline.data.sample import Sample
from pipeline.data.store import DatasetInfo, check_sample, digest, replace_folder, write_info, write_split
from pipeline.datasets import get_dataset
from pipeline.datasets.spec import Dataset
from pipeline.download.archive import SOURCE_FILE, extracted
from pipeline.params.schema import Data

_CHUNK = 8
_SHOWN = 5  # broken samples that a message names
_ENOUGH = 100  # broken samples after which reading further adds nothing


@dataclass(frozen=True)
class Broken:
    """What comes from a worker instead of a sample that can't be used."""

    id: str
    problem: str


def prepare(raw: Path, target: Path, params: Data, workers: int | None = None) -> DatasetInfo:
    """Pack the dataset that `params` names, from the folder `raw` into `target`, which appears whole or not at all.

    The bytes do not depend on the number of workers. Raises DataError for splits that are not those published, and with
    the ids and faults of broken samples, unless `params.skip_broken` leaves them out.
    """
    with _scratch(target) as scratch, extracted(raw, scratch) as source:
        dataset = get_dataset(params.dataset)
        if dataset.resolve is not None:
            dataset = dataset.resolve(source, params)
        original = paths.read_json(raw / SOURCE_FILE).get("published", False)
        splits = _splits(dataset, source, params, original)
        new = scratch / "prepared"
        counts, skipped = {}, {}
        for split, ids in splits.items():
            read = partial(_read, params.dataset, source, split, params)
            samples = _Checked(_read_all(read, ids, workers, split), params.tasks, params.skip_broken)
            counts[split] = write_split(new / split, samples, params.tasks, samples.why_empty)
            samples.finish(f"{len(ids)} {split} samples of {dataset.name}")
            skipped[split] = tuple(broken.id for broken in samples.broken)
        classes = {task: names for task, names in dataset.classes.items() if task in params.tasks}
        info = DatasetInfo(
            dataset=dataset.name,
            tasks=tuple(params.tasks),
            classes=classes,
            edge_max_dist=dataset.edge_max_dist,
            splits=counts,
            digest=digest(new, [dataset.name, classes, dataset.edge_max_dist]),
            skipped=skipped,
            published=dataset.published is not None and original and counts == dataset.published,
        )
        write_info(new, info)
        replace_folder(new, target, scratch / "old")
    return info


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, gone afterwards; what a killed call left is removed first, it may be large."""
    folder = target.parent / f".{target.name}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            removal.remove(folder, target.parent)
            folder.mkdir()
            try:
                yield folder
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DataError(f"no space left for {target}: free some, then run it again") from error
            finally:
                with suppress(OSError):  # the next call removes what is left
                    removal.remove(folder, target.parent)
    except Timeout:
        raise DataError(f"{target} is being prepared by another process: let that end first") from None


def _splits(dataset: Dataset, source: Path, params: Data, original: bool) -> dict[str, list[str]]:
    """The ids of each split, limited as params say. Raises DataError unless they are disjoint and as published."""
    splits = {split: list(ids) for split, ids in dataset.splits(source, params).items()}
    for one, other in combinations(splits, 2):
        if overlap := set(splits[one]) & set(splits[other]):
            raise DataError(f"{len(overlap)} ids are in both {one} and {other}, the first: {min(overlap)}")
    counts = {split: len(ids) for split, ids in splits.items()}
    if original and dataset.published not in (None, counts):
        found = ", ".join(f"{counts[split]} {split} (published: {n})" for split, n in dataset.published.items())
        raise DataError(
            f"{dataset.name} lists {found}: part of it is missing. Get it again with `dvc repro -f download`, or name "
            "another archive on purpose in data.archive."
        )
    return {split: ids[: params.limit] for split, ids in splits.items()}


def _read(name: str, source: Path, split: str, params: Data, sample_id: str) -> Sample | Broken:
    """Read one sample in a worker; the registry is looked up there, so that only names cross the process border."""
    try:
        return get_dataset(name).read(source, split, sample_id, params)
    except DataError as error:
        return Broken(sample_id, str(error))


class _Checked:
    """The samples that are whole, in order; the others are remembered."""

    def __init__(self, samples: Iterator[Sample | Broken], tasks: tuple[str, ...], skip: bool):
        self._samples, self._tasks, self._skip = samples, tasks, skip
        self.broken: list[Broken] = []

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._samples:
            sample = self._judged(sample)
            if isinstance(sample, Sample):
                yield sample
                continue
            self.broken.append(sample)
            if not self._skip and len(self.broken) == _ENOUGH:
                return

    def _judged(self, sample: Sample | Broken) -> Sample | Broken:
        if isinstance(sample, Sample):
            try:
                check_sample(sample, self._tasks)  # here, since it imports torch, which workers do without
            except DataError as error:
                return Broken(sample.id, str(error))
        return sample

    def why_empty(self) -> str:
        return f": all are broken\n{self._list()}" if self.broken else "; it needs at least one sample"

    def finish(self, of: str) -> None:
        """Raise DataError if any sample was broken; where they may be skipped, print that instead."""
        if not self.broken:
            return
        count = f"{'at least ' if len(self.broken) == _ENOUGH else ''}{len(self.broken)}"
        found = f"{count} of {of} {'is' if count == '1' else 'are'} broken:\n{self._list()}"
        if not self._skip:
            raise DataError(
                f"{found}\nFix the files or get the archive again; or set data.skip_broken: true to leave such samples "
                "out, which every metrics file then says."
            )
        print(f"left out: {found}", file=sys.stderr)

    def _list(self) -> str:
        lines = [f"  {broken.id}: {broken.problem}" for broken in self.broken[:_SHOWN]]
        if len(self.broken) > _SHOWN:
            lines.append(f"  and {len(self.broken) - _SHOWN} more")
        return "\n".join(lines)


def _read_all(
    read: Callable[[str], Sample | Broken], ids: Sequence[str], workers: int | None, split: str
) -> Iterator[Sample | Broken]:
    """Samples in the order of `ids`, read ahead by worker processes but never more than a few chunks."""
    workers = workers or worker_count()
    with tqdm(total=len(ids), desc=f"prepare {split}", unit="sample", disable=None) as progress:
        if workers == 1 or len(ids) <= _CHUNK:
            for sample_id in ids:
                yield read(sample_id)
                progress.update()
            return
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (os.getpid(),)) as pool:
            window = workers * _CHUNK * 2
            pending: list[Future[Sample | Broken] | None] = [pool.submit(read, sample_id) for sample_id in ids[:window]]
            try:
                for i in range(len(ids)):
                    yield cast("Future[Sample | Broken]", pending[i]).result()
                    pending[i] = None  # let the sample go once it is written
                    if window + i < len(ids):
                        pending.append(pool.submit(read, ids[window + i]))
                    progress.update()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Workers decode on one thread each: the parallelism is over samples."""
    import cv2

    cv2.setNumThreads(1)
    end_with_parent(parent)
