"""Cross attention of trained networks on photographs of one's own: pages to look at, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.core import paths
from pipeline.core.errors import DataError, ParamsError
from pipeline.evaluation.attention import TaskAttention
from pipeline.tasks import get_task
from pipeline.tools.predict import Predictor
from pipeline.tools.predict_inputs import read_picture
from pipeline.visual.attention_page import attention_page
from pipeline.visual.figures import save

Point = tuple[int, int]
"""Of a photograph's pixel: column and row, from 0."""


def show_attention(
    predictors: Mapping[str, Predictor], targets: Mapping[Path, Path], points: Sequence[Point]
) -> Iterator[Path]:
    """Write what pixels of each photograph gathered into its folder; yields the pages as they are written.

    predictors: networks by name, the folder of their pages. targets: {photograph: its folder}. points: none for the
    photograph's middle. For each point and task a page, <task>-<column>-<row>.png, and beside it an .npz with weights
    and changes, named as in `TaskAttention.arrays`.
    Raises DataError for a photograph that can't be read, and for a point outside of it; ParamsError as `attention_at`.
    """
    for photo, folder in targets.items():
        image = read_picture(photo)
        height, width = image.shape[:2]
        for column, row in points or [(width // 2, height // 2)]:
            if not (0 <= column < width and 0 <= row < height):
                raise DataError(
                    f"{photo} has no pixel {column},{row}: it is {width} pixels wide and {height} high, counted from 0"
                )
            place = ((row + 0.5) / height, (column + 0.5) / width)
            for name, predictor in predictors.items():
                try:
                    found = predictor.attention(image, place)
                except ParamsError as error:
                    raise ParamsError(f"{name}: {error}") from None
                for task, attention in found.items():
                    page = folder / name / f"{task}-{column}-{row}.png"
                    title = f"{get_task(task).title} of {name} at {column},{row}"
                    try:
                        _write(page.with_suffix(".npz"), attention)
                        save(attention_page(image, place, attention.rows, title), page)
                    except OSError as error:
                        raise DataError(f"{page} can't be written: {error}") from None
                    yield page


def _write(path: Path, attention: TaskAttention) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with paths.atomic(path, "wb") as file:
        np.savez(file, **attention.arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options
