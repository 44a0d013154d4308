"""A video through trained networks: a video for each network and task, to look at."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np
from cv2.utils import logging
from tqdm import tqdm

from pipeline.core import paths
from pipeline.core.console import duration, warn
from pipeline.core.errors import DataError
from pipeline.tasks.spec import TaskContext
from pipeline.visual.paint import MEASURED, with_middle

if TYPE_CHECKING:
    from pipeline.tools.export.model import Augmentation
    from pipeline.tools.predict import Predictor

_CODEC = "mp4v"  # MPEG-4 part 2: OpenCV's wheels bring its encoder everywhere, unlike that of H.264
_RATE_UNITS = 2**16 - 1  # MPEG-4 counts time in at most so many units a second


class Video:
    """The frames of a video, in order, once: each (H, W, 3) uint8 RGB, upright as its rotation tag says.

    size: H, W. rate: frames a second. count: frames that the header says, an estimate in some formats; None: it says
    none. Raises DataError for what is no video, has no frames or does not say its rate; as frames are read, for one of
    another size than the first.
    """

    def __init__(self, path: Path):
        self.path = path
        with _quiet():
            # The whole path: OpenCV takes what looks like an address for one.
            self._capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
            first = self._read() if self._capture.isOpened() else None
        if not self._capture.isOpened():
            raise DataError(f"{path} can't be read as a video: it is damaged, empty, or of a codec unknown to OpenCV")
        if first is None:
            raise DataError(f"{path} has no frames that can be read")
        self._first = first
        self.size = (first.shape[0], first.shape[1])
        self.rate = self._capture.get(cv2.CAP_PROP_FPS)
        if not 0 < self.rate < _RATE_UNITS:  # nor is it NaN
            raise DataError(
                f"{path} has a rate of {self.rate} frames a second, expected more than 0 and less than {_RATE_UNITS}: "
                "write it anew with a rate"
            )
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < 2**53 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        frame: np.ndarray | None = self._first
        while frame is not None:
            if frame.shape != self._first.shape:
                found, expected = ("x".join(map(str, each.shape[:2])) for each in (frame, self._first))
                raise DataError(f"{self.path} has frames of {found} among those of {expected}: write it anew")
            yield frame
            frame = self._read()
        self._capture.release()

    def _read(self) -> np.ndarray | None:
        with _quiet():
            readable, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if readable else None


def write_videos(
    predictors: Mapping[str, Predictor],
    video: Video,
    folder: Path,
    contexts: Mapping[str, TaskContext],
    tta: Augmentation | None = None,
) -> None:
    """Write <network>/<task>.mp4 into the folder, all whole or none: of the video's size and rate, without sound.

    Lengths have one scale for all networks and frames, whose middle is the median of the first frame. Progress is a bar
    on a terminal, else one line at the end. Raises OSError where a video can't be written, DataError as `Video`.
    """
    began, frames = time.monotonic(), 0
    folder.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=".videos.", suffix=paths.PARTIAL, dir=folder) as partial,
        tqdm(total=video.count, desc=video.path.name, unit="frame", disable=None, leave=None) as progress,
    ):
        with _Writers(Path(partial), video) as writers:
            for frame in video:
                found = {name: predictor(frame, tta) for name, predictor in predictors.items()}
                if not frames:
                    contexts = _one_scale(contexts, list(found.values()))
                for name, predictions in found.items():
                    for task, picture in predictors[name].paint(predictions, contexts).items():
                        writers.write(Path(name) / f"{task}.mp4", picture)
                frames += 1
                progress.update()
        for path in writers.opened:
            _check_written(partial / path, frames)
        for path in writers.opened:
            (folder / path).parent.mkdir(exist_ok=True)
            os.replace(partial / path, folder / path)
        bar = not progress.disable  # closing it disables it
    _report(video, frames, None if bar else time.monotonic() - began)


def _report(video: Video, frames: int, seconds: float | None) -> None:
    """What a person should know at the end. seconds: None where a bar has shown the rate."""
    with tqdm.external_write_mode():
        if seconds is not None:
            rate = frames / max(seconds, 1e-3)
            warn(f"{video.path}: {frames} frames in {duration(seconds)}, {rate:.3g} a second")
        if video.count is not None and frames < video.count:
            warn(f"{video.path} says that it has {video.count} frames; {frames} could be read: it may be cut off")
        if _even(video.size) != video.size:
            size, written = ("x".join(map(str, each)) for each in (video.size, _even(video.size)))
            warn(f"{video.path} is {size}, and MP4 takes even sizes: {written} of it are written")


def _one_scale(
    contexts: Mapping[str, TaskContext], predictions: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, TaskContext]:
    """With the middle of all networks' lengths, as on a page of a photograph."""
    return {
        task: with_middle(context, [of[task].ravel().clip(min=0) for of in predictions if task in of])
        if task in MEASURED
        else context
        for task, context in contexts.items()
    }


def _even(size: tuple[int, int]) -> tuple[int, int]:
    """What of it an MP4 takes: OpenCV leaves out the rest by itself, without a word."""
    return size[0] // 2 * 2, size[1] // 2 * 2


class _Writers:
    """Videos in a folder, by their paths from there, of the rate and size of another. Raises OSError."""

    def __init__(self, folder: Path, video: Video):
        self._folder, self._size = folder, _even(video.size)
        digits = next(digits for digits in (3, 2, 1, 0) if video.rate * 10**digits <= _RATE_UNITS)
        self._rate = round(video.rate, digits)
        self.opened: dict[Path, cv2.VideoWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for writer in self.opened.values():
            writer.release()

    def write(self, path: Path, picture: np.ndarray) -> None:
        """One more frame, (H, W, 3) uint8 RGB."""
        height, width = self._size
        if path not in self.opened:
            self.opened[path] = self._open(self._folder / path)
        self.opened[path].write(np.ascontiguousarray(picture[:height, :width, ::-1]))

    def _open(self, path: Path) -> cv2.VideoWriter:
        path.parent.mkdir(exist_ok=True)
        height, width = self._size
        with _quiet():
            codec = cv2.VideoWriter.fourcc(*_CODEC)
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, self._rate, (width, height))
        if not writer.isOpened():
            raise OSError(f"OpenCV writes no {_CODEC} video of {height}x{width} at {self._rate:g} frames a second here")
        return writer


def _check_written(path: Path, frames: int) -> None:
    """OpenCV says nothing of a disk that is full. Raises OSError."""
    with _quiet():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        found = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()
    if found != frames:
        raise OSError(f"{path.name} holds {found} of {frames} frames once it is written; the disk may be full")


@contextmanager
def _quiet() -> Iterator[None]:
    """Messages of OpenCV and FFmpeg are left out: what matters of them is raised here, by the file's name."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, before the first video
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
