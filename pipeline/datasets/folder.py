"""A person's own data: the NYUD_MT layout (`pipeline.datasets.layout`) with a `dataset.yaml` that describes it.

docs/datasets.md shows an example. The folder is the one that `data.folder` in params.yaml names; it is only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field, PlainValidator, ValidationError

from pipeline.core import names
from pipeline.core.dvc_hashing import check_hashed
from pipeline.core.errors import DataError, ParamsError
from pipeline.data.sample import Sample
from pipeline.datasets.layout import AXES, LISTS, Layout, check_labelled, read_sample, read_splits
from pipeline.datasets.png_codes import READINGS
from pipeline.datasets.spec import Dataset
from pipeline.params.messages import Problem, problems_of, tell
from pipeline.params.schema import Data, Section
from pipeline.params.types import Name, NoBool, Positive, TaskName, TaskNames, Text, Unique, one_of
from pipeline.params.yaml_file import read_yaml

DESCRIPTION = "dataset.yaml"
_SEE = "docs/datasets.md shows the layout and an example"
_WITH_CLASSES = ("semseg", "human_parts")
_OF_CODES = (*_WITH_CLASSES, "sal", "edge")  # whose PNGs hold codes in one channel
_BUILT_IN = tuple(name for name in names.DATASETS if name != "folder")


def _own_name(name: str) -> str:
    if name in _BUILT_IN:  # its scores would pass for those of that dataset
        raise ValueError(f"must not be the name of a dataset that is built in ({', '.join(_BUILT_IN)})")
    return name


def _in_the_layout(tasks: tuple[str, ...]) -> tuple[str, ...]:
    if lacking := [task for task in tasks if task not in names.DATASET_TASKS["folder"]]:
        allowed = ", ".join(names.DATASET_TASKS["folder"])
        raise ValueError(f"{', '.join(lacking)} has no place in this layout; allowed: {allowed}")
    return tasks


def _three_axes(axes: tuple[str, ...]) -> tuple[str, ...]:
    if sorted(axis.removeprefix("-") for axis in axes) != list(AXES):
        raise ValueError("must be x, y and z in some order, each with or without a minus, such as [x, -y, -z]")
    return axes


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:  # DVC hashes the folder alone: an edit elsewhere would rerun nothing
        raise ValueError("must be the path of a file in the dataset's folder, from there, without ..")
    return name


def _codes(value: object) -> tuple[float, ...]:
    """One code or several; .nan and .inf are codes too."""
    values = value if isinstance(value, list | tuple) else [value]
    try:
        if any(isinstance(each, bool) for each in values):
            raise ValueError
        codes = tuple(float(cast("str | float", each)) for each in values)  # 1e10 is text in YAML 1.1
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number, or a list of numbers such as [0, 255]") from None
    if not codes:
        raise ValueError("must hold at least one code; leave it out where every pixel has a label")
    if len(set(codes)) != len(codes):
        raise ValueError("must not repeat a code")
    return codes


ListFile = Annotated[Text, AfterValidator(_inside)]
ClassTask = Annotated[str, one_of("task with classes", _WITH_CLASSES)]
# 255 at most, so that 0 or 255 is left to be ignored.
ClassNames = Annotated[tuple[Name, ...], Unique, Field(min_length=2, max_length=255)]
CodesTask = Annotated[str, one_of("task with PNGs of codes", _OF_CODES)]
Reading = Annotated[str, one_of("reading", READINGS)]
Codes = Annotated[tuple[float, ...], PlainValidator(_codes)]
Level = Annotated[int, NoBool, Field(ge=1, le=255)]


class Lists(Section):
    """The file of each split that lists its ids, from the dataset's folder; None: there is no such split."""

    train: ListFile = LISTS["train"]
    val: ListFile = LISTS["val"]
    test: ListFile | None = None


class Description(Section):
    """What dataset.yaml holds.

    tasks: those that there are labels for. classes: names in index order. edge_max_dist: tolerance of the edge match,
    as a share of the image diagonal; that of BSDS unless given. labels: whether every image has a label of every task.
    All others: see `Layout`.
    """

    name: Annotated[Name, AfterValidator(_own_name)]
    tasks: Annotated[TaskNames, Field(min_length=1), AfterValidator(_in_the_layout)]
    classes: dict[ClassTask, ClassNames] = {}
    ignore: dict[TaskName, Codes] = {}
    splits: Lists = Lists()
    labels: Literal["complete", "partial"] = "complete"
    edge_max_dist: Annotated[Positive, Field(lt=1)] = 0.0075
    depth_scale: Positive | None = None
    max_depth: Positive | None = None
    sal_max: Level | None = None
    png_codes: dict[CodesTask, Reading] = {}
    normals_axes: Annotated[tuple[str, ...], AfterValidator(_three_axes)] = AXES

    def layout(self) -> Layout:
        """What this says of the files, as `read_sample` takes it."""
        return Layout(
            classes=self.classes,
            ignore=self.ignore,
            lists=self.splits.model_dump(exclude_none=True),
            depth_scale=self.depth_scale,
            normals_axes=self.normals_axes,
            max_depth=self.max_depth,
            sal_max=self.sal_max,
            png_codes=self.png_codes,
            partial=self.labels == "partial",
        )


def read_description(folder: Path) -> Description:
    """Read and check the folder's dataset.yaml. Raises DataError with every problem found, one a line."""
    path = folder / DESCRIPTION
    if not path.is_file():
        problem = f"{path} is missing" if folder.is_dir() else f"there is no folder {folder}"
        raise DataError(
            f"{problem}: data.folder names the folder of your own data, with images, labels and a {DESCRIPTION}; {_SEE}"
        )
    try:
        description = Description.model_validate(read_yaml(path))
    except ParamsError as error:
        raise DataError(f"{error}; {_SEE}") from error
    except ValidationError as error:
        raise DataError(f"{tell(str(path), list(problems_of(error, Description)))}\n{_SEE}") from error
    if problems := _cross_problems(description):
        raise DataError(f"{tell(str(path), problems)}\n{_SEE}")
    return description


def _cross_problems(description: Description) -> list[Problem]:
    """Problems between values that are each right alone."""
    problems = [
        Problem(f"classes.{task}", "missing; list the names of its classes in the order of their codes")
        for task in description.tasks
        if task in _WITH_CLASSES and task not in description.classes
    ]
    for key in ("classes", "ignore", "png_codes"):
        for task in getattr(description, key):
            if task not in description.tasks:
                problems.append(Problem(f"{key}.{task}", f"{task} is not in tasks; add it there or leave this out"))
    for task, codes in description.ignore.items():
        problems += (Problem(f"ignore.{task}", text) for text in _code_problems(description, task, codes))
    return problems


def _code_problems(description: Description, task: str, codes: tuple[float, ...]) -> Iterator[str]:
    """What is wrong with the codes to ignore of one task."""
    if task not in _OF_CODES:
        return
    count = len(description.classes.get(task, ()))
    for code in codes:
        if not (code.is_integer() and -32768 <= code <= 255):
            yield f"got {code:g}; must be a whole number, -32768 to 255"
        elif task == "human_parts" and code == 0:  # the metric skips images of nothing but class 0
            yield "got 0; 0 is the background, the first of its classes: ignore 255"
        elif task in _WITH_CLASSES and 0 < code < count + (0 in codes):
            yield f"{code:g} is the code of a class; it can be 0 (classes from 1) or {count} to 255 (classes from 0)"
        elif task in ("sal", "edge") and code in (0, 1):
            yield f"got {code:g}; 0 and 1 are the labels themselves"


def resolve(raw: Path, params: Data) -> Dataset:
    """The dataset that `params.folder` holds.

    Raises DataError for a bad dataset.yaml, for tasks that it lacks and for folders that DVC does not hash.
    """
    description = read_description(Path(params.folder))
    check_hashed(Path(params.folder))
    if lacking := [task for task in params.tasks if task not in description.tasks]:
        raise DataError(
            f"data.tasks asks for {', '.join(lacking)}, but {Path(params.folder) / DESCRIPTION} lists only "
            f"{', '.join(description.tasks)}"
        )
    return replace(
        FOLDER,
        name=description.name,
        classes=description.classes,
        tasks=description.tasks,
        edge_max_dist=description.edge_max_dist,
    )


def splits(raw: Path, params: Data) -> dict[str, list[str]]:
    """The ids that the folder's lists name; `raw` is not used.

    Raises DataError, also where labels are partial and a task has none.
    """
    folder = Path(params.folder)
    layout = read_description(folder).layout()
    ids = read_splits(layout, folder)
    check_labelled(layout, folder, chain.from_iterable(ids.values()), params.tasks)
    return ids


def check_has_split(folder: Path, split: str) -> None:
    """Raise DataError where dataset.yaml in `folder` lists no such split."""
    lists = read_description(folder).splits.model_dump(exclude_none=True)
    if split not in lists:
        raise DataError(
            f"evaluation.split is {split}, but {folder / DESCRIPTION} lists no such split, only {', '.join(lists)}: "
            f"name the file of its ids there, as splits.{split}, or set evaluation.split to val"
        )


def read(raw: Path, split: str, sample_id: str, params: Data) -> Sample:
    """One image with the labels of `params.tasks`; `raw` is not used. Raises DataError naming the file."""
    folder = Path(params.folder)
    return read_sample(read_description(folder).layout(), folder, sample_id, params.tasks)


FOLDER = Dataset(
    name="folder",
    classes={},  # until `resolve` has read them
    tasks=names.DATASET_TASKS["folder"],
    edge_max_dist=0.0075,
    splits=splits,
    read=read,
    resolve=resolve,
)
