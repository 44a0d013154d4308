"""Pictures of a training's predictions, for MLflow: they wait in the training's folder until the store has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.core.console import warn
from pipeline.visual.paint import fit, write_png

MOST = 8  # samples in a picture: more would be too small to see
_LONGEST = 1920  # pixels of a side: there is one for each validation
_NAME = re.compile(r"panels-(\w+)-(\d+)\.png")


class Pictures:
    """Pictures by task and step in `folder`, each given to `send(path, task, step)`, earlier attempts' at first."""

    def __init__(self, folder: Path, send: Callable[[Path, str, int], None]):
        self._folder, self._send = folder, send
        for path in sorted(folder.iterdir()):
            if found := _NAME.fullmatch(path.name):
                send(path, found[1], int(found[2]))

    def add(self, task: str, picture: np.ndarray, step: int) -> None:
        """Keep (H, W, 3) uint8 RGB, made smaller where it is large, and send it; a disk that is full is reported."""
        path = self._folder / f"panels-{task}-{step}.png"
        try:
            write_png(path, fit(picture, _LONGEST))
        except OSError as error:  # for the eye alone: no reason to end a training
            warn(f"warning: {path} can't be written ({error.strerror}): MLflow lacks this picture")
        else:
            self._send(path, task, step)
