"""A person's own data: the NYUD_MT layout (`pipeline.datasets.layout`) with a `dataset.yaml` that describes it.

docs/datasets.md shows an example. The folder is the one that `data.folder` in params.yaml names; it is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from pipeline import names
from pipeline.datasets.layout import AXES, LISTS, Layout, read_sample, read_splits
from pipeline.datasets.sample import Sample
from pipeline.datasets.spec import Dataset
from pipeline.errors import DataError, ParamsError
from pipeline.params import Data, Section
from pipeline.params_problems import Problem, problems_of, read_yaml, tell
from pipeline.params_types import Name, NoBool, Positive, TaskNames, Text, Unique, one_of

DESCRIPTION = "dataset.yaml"
_SEE = "docs/datasets.md shows the layout and an example"
_WITH_CLASSES = ("semseg", "human_parts")
_BUILT_IN = tuple(name for name in names.DATASETS if name != "folder")


def _own_name(name: str) -> str:
    if name in _BUILT_IN:  # its scores would pass for those of that dataset
        raise ValueError(f"must not be the name of a dataset that is built in ({', '.join(_BUILT_IN)})")
    return name


def _three_axes(axes: tuple[str, ...]) -> tuple[str, ...]:
    if sorted(axis.removeprefix("-") for axis in axes) != list(AXES):
        raise ValueError("must be x, y and z in some order, each with or without a minus, such as [x, -y, -z]")
    return axes


ClassTask = Annotated[str, one_of("task with classes", _WITH_CLASSES)]
# 255 at most, so that 0 or 255 is left to be ignored.
ClassNames = Annotated[tuple[Name, ...], Unique, Field(min_length=2, max_length=255)]
Code = Annotated[int, NoBool, Field(ge=0, le=255)]


class Lists(Section):
    """The file of each split that lists its ids, from the dataset's folder."""

    train: Text = LISTS["train"]
    val: Text = LISTS["val"]


class Description(Section):
    """What dataset.yaml holds.

    tasks: those that there are labels for. classes: names in index order. ignore: see `Layout`.
    edge_max_dist: tolerance of the edge match, as a share of the image diagonal; that of BSDS unless given.
    depth_scale: units a metre of 16-bit PNG depth. normals_axes: our x, y and z in terms of the stored ones.
    """

    name: Annotated[Name, AfterValidator(_own_name)]
    tasks: Annotated[TaskNames, Field(min_length=1)]
    classes: dict[ClassTask, ClassNames] = {}
    ignore: dict[ClassTask, Code] = {}
    splits: Lists = Lists()
    edge_max_dist: Annotated[Positive, Field(lt=1)] = 0.0075
    depth_scale: Positive | None = None
    normals_axes: Annotated[tuple[str, ...], AfterValidator(_three_axes)] = AXES

    def layout(self) -> Layout:
        return Layout(self.classes, self.ignore, self.splits.model_dump(), self.depth_scale, self.normals_axes)


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
    for key in ("classes", "ignore"):
        for task in getattr(description, key):
            if task not in description.tasks:
                problems.append(Problem(f"{key}.{task}", f"{task} is not in tasks; add it there or leave this out"))
    if description.ignore.get("human_parts") == 0:  # the metric skips images of nothing but class 0
        problems.append(
            Problem("ignore.human_parts", "got 0; 0 is the background, the first of its classes: ignore 255")
        )
    for task, code in description.ignore.items():
        count = len(description.classes.get(task, ()))
        if 0 < code < count:
            text = f"{code} is the code of a class; it can be 0 (classes from 1) or {count} to 255 (classes from 0)"
            problems.append(Problem(f"ignore.{task}", text))
    return problems


def resolve(raw: Path, params: Data) -> Dataset:
    """The dataset that `params.folder` holds. Raises DataError for a bad dataset.yaml and for tasks that it lacks."""
    description = read_description(Path(params.folder))
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


def splits(raw: Path, params: Data) -> dict[str, Sequence[str]]:
    """The ids that the folder's lists name; `raw` is not used. Raises DataError."""
    folder = Path(params.folder)
    return read_splits(read_description(folder).layout(), folder)


def read(raw: Path, split: str, sample_id: str, params: Data) -> Sample:
    """One image with the labels of `params.tasks`; `raw` is not used. Raises DataError naming the file."""
    folder = Path(params.folder)
    return read_sample(read_description(folder).layout(), folder, sample_id, params.tasks)


FOLDER = Dataset(
    name="folder",
    classes={},  # until `resolve` has read them
    tasks=names.TASKS,
    edge_max_dist=0.0075,
    archive=None,
    splits=splits,
    read=read,
    resolve=resolve,
)
