"""What the machine sets to params.yaml: folders that are the project's own, and sizes that no memory or disk holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipeline.core import paths
from pipeline.params.messages import Problem

if TYPE_CHECKING:
    from pipeline.params.schema import Params, ResolvedRun

# What stages write and what they are made of: a folder of data above, in or at one of these is a mistake.
OWN_FOLDERS = (
    paths.RAW, paths.PREPARED, paths.MODELS, paths.REPORTS, Path(".runs"), Path("mlruns"), Path(".git"), Path(".dvc"),
    Path("pipeline"), Path("stages"), Path("profiles"), Path("tests"), Path("docs"), Path(".venv"),
)  # fmt: skip

# Bytes a pixel of a batch that a training step takes at the least: image, predictions at full size and what the
# leanest backbones keep for the backward pass. Usual ones take ten times that: `python -m stages.cost` measures it.
STEP_BYTES = 100
SCORING_BYTES = 24  # the image in float32, a prediction and its decoded form
LARGEST_DEVICE = 320 << 30  # bytes; more than any single accelerator has
LARGEST_DISK = 64 << 40


def folder_problems(params: Params) -> Iterator[Problem]:
    """data.folder where it is, holds or lies in a folder of the project's own, links followed.

    DVC depends on it whatever the dataset: it would be a cycle, or hash all the project's files.
    """
    folder = params.data.folder
    try:
        found = Path(folder).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a name that is too long
        yield Problem("data.folder", f"{folder!r} can't be followed: {error}")
        return
    here = Path.cwd()
    if here.is_relative_to(found):
        yield Problem(
            "data.folder", f"{folder!r} is the project's own folder, or holds it; give one for your data alone"
        )
        return
    for own in OWN_FOLDERS:
        place = (here / own).resolve()
        if found.is_relative_to(place) or place.is_relative_to(found):
            text = f"{folder!r} is, holds or lies in {own}, which is the project's own; give one for your data alone"
            yield Problem("data.folder", text)
            return


def size_problems(params: Params) -> Iterator[Problem]:
    """Sizes of which one step, one batch that is scored, or one generated frame needs more memory than there is.

    Only for params that are right otherwise: training values are merged here.
    """
    memory = max(psutil.virtual_memory().total, LARGEST_DEVICE)
    for run in map(params.run, params.all_runs):
        height, width = run.training.input_size
        part = run.training.batch_size // run.training.accumulate
        if (needed := part * height * width * STEP_BYTES) > memory:
            what = f"a step on {part:,} images of {height:,}x{width:,} pixels takes {_size(needed)} of memory or more"
            remedy = "lower input_size or batch_size, or raise accumulate"
            yield Problem(_place(params, run, ("input_size", "batch_size")), f"{what}; {remedy}")
        count = params.evaluation.batch_size
        if (needed := count * height * width * SCORING_BYTES) > memory:
            what = f"scoring {count:,} images of {height:,}x{width:,} pixels takes {_size(needed)} of memory or more"
            yield Problem("evaluation.batch_size", f"{what}; lower it")
    if params.data.dataset == "rooms":
        rooms = params.data.rooms
        height, width = rooms.size
        if (needed := height * width * STEP_BYTES) > memory:
            what = f"a frame of {height:,}x{width:,} pixels takes {_size(needed)} of memory or more; lower it"
            yield Problem("data.rooms.size", what)
        frames = sum(min(count, params.data.limit or count) for count in (rooms.train, rooms.val))
        if (needed := frames * height * width * (3 + len(params.data.tasks))) > LARGEST_DISK:
            what = f"{frames:,} frames of {height:,}x{width:,} pixels take {_size(needed)} on disk or more"
            yield Problem("data.rooms", f"{what}; lower train, val, size or data.limit")


def _place(params: Params, run: ResolvedRun, keys: tuple[str, ...]) -> str:
    """Where the first of these values stands that the run sets itself, or in the common recipe."""
    own = next((key for key in keys if key in params.all_runs[run.name].training), None)
    return f"{run.key}.training.{own}" if own else f"training.{keys[0]}"


def _size(count: int) -> str:
    for unit in ("GB", "TB", "PB"):
        if count < 1e15 or unit == "PB":
            scaled = count / {"GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
            if scaled < 1000 or unit == "PB":
                return f"{scaled:,.0f} {unit}"
    raise AssertionError("the last unit takes all")
