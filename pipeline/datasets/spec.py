"""The declaration of a dataset: everything the pipeline needs to know about it, in one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.sample import Sample
from pipeline.download.catalog import ARCHIVES, Archive
from pipeline.params.schema import Data


@dataclass(frozen=True)
class Dataset:
    """A dataset that `prepare` can pack.

    classes: class names in index order, for each task whose channels are the dataset's classes.
    tasks: the tasks it has labels for.
    edge_max_dist: tolerance of the edge match (odsF), as a share of the image diagonal.
    splits: (raw folder, params) -> {"train": ids, "val": ids}; "test" too where there is a test split.
    read: (raw folder, split, id, params) -> Sample. A top-level function, deterministic: it runs in worker processes.
        Opens only the files that the tasks of `params.tasks` need. Raises DataError, naming the id and the file, for
        a sample that is broken.
    published: samples of each split as published; checked when the archive is the published one.
    resolve: for a dataset whose facts lie in its folder: (folder, params) -> the dataset with those facts filled in.
    """

    name: str
    classes: dict[str, tuple[str, ...]]
    tasks: tuple[str, ...]
    edge_max_dist: float
    splits: Callable[[Path, Data], Mapping[str, Sequence[str]]]
    read: Callable[[Path, str, str, Data], Sample]
    published: dict[str, int] | None = None
    resolve: Callable[[Path, Data], Dataset] | None = None

    @property
    def archive(self) -> Archive | None:
        """What `download` fetches; None for a dataset that is generated, or a person's own."""
        return ARCHIVES[self.name]
