"""From raw data to the packed store: read every sample once, in parallel, in a fixed order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from pipeline.datasets import get_dataset
from pipeline.datasets.archive import extracted
from pipeline.datasets.sample import Sample
from pipeline.datasets.store import DatasetInfo, digest, replace_folder, write_info, write_split
from pipeline.errors import DataError
from pipeline.params import Data

_CHUNK = 8


def prepare(raw: Path, target: Path, params: Data, workers: int | None = None) -> DatasetInfo:
    """Pack the dataset that `params` names, from the folder `raw` into `target`, which appears whole or not at all.

    The bytes do not depend on the number of workers. Raises DataError with the sample's id when one can't be read.
    """
    dataset = get_dataset(params.dataset)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=target.parent) as scratch:
        new = Path(scratch) / "prepared"
        with extracted(raw, Path(scratch)) as source:
            splits = dataset.splits(source, params)
            overlap = set(splits["train"]) & set(splits["val"])
            if overlap:
                raise DataError(f"{len(overlap)} ids are in both train and val, the first: {min(overlap)}")
            counts = {}
            for split, ids in splits.items():
                ids = list(ids)[: params.limit]
                samples = _read_all(partial(_read, dataset.name, source, split, params), ids, workers, split)
                counts[split] = write_split(new / split, samples, params.tasks)
        classes = {task: names for task, names in dataset.classes.items() if task in params.tasks}
        info = DatasetInfo(
            dataset=dataset.name,
            tasks=tuple(params.tasks),
            classes=classes,
            edge_max_dist=dataset.edge_max_dist,
            splits=counts,
            digest=digest(new, [dataset.name, classes, dataset.edge_max_dist]),
        )
        write_info(new, info)
        replace_folder(new, target)
    return info


def _read(name: str, source: Path, split: str, params: Data, sample_id: str) -> Sample:
    """Read one sample in a worker; the registry is looked up there, so that only names cross the process border."""
    return get_dataset(name).read(source, split, sample_id, params)


def _read_all(read, ids: Sequence[str], workers: int | None, split: str) -> Iterator[Sample]:
    """Samples in the order of `ids`, read ahead by worker processes but never more than a few chunks."""
    workers = workers or os.cpu_count() or 1
    with tqdm(total=len(ids), desc=f"prepare {split}", unit="sample", disable=None) as progress:
        if workers == 1 or len(ids) <= _CHUNK:
            for sample_id in ids:
                yield read(sample_id)
                progress.update()
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
            window = workers * _CHUNK * 2
            pending: list[Future | None] = [pool.submit(read, sample_id) for sample_id in ids[:window]]
            for i in range(len(ids)):
                yield pending[i].result()
                pending[i] = None  # let the sample go once it is written
                if window + i < len(ids):
                    pending.append(pool.submit(read, ids[window + i]))
                progress.update()


def _one_thread() -> None:
    """Workers decode on one thread each: the parallelism is over samples."""
    import cv2

    cv2.setNumThreads(1)
