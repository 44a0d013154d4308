"""What `stages.predict` is given: pictures, folders of them, videos and stdin; and where their results go."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.datasets.files import read_photo_as_seen, shown

STDIN = Path("-")
_STDIN_NAME = Path("/dev/stdin")  # what the results of stdin are named after
_SHOWN = 3  # photographs that a message names
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # of pictures in a folder
_VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def is_video(path: Path) -> bool:
    """By its ending."""
    return path.suffix.lower() in _VIDEO_ENDINGS


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as a person sees it, of a file or of STDIN. Raises DataError for what is no picture."""
    if path != STDIN:
        if is_video(path):
            raise DataError(f"{path} is a video, by its ending; a picture is expected here")
        return read_photo_as_seen(path)
    if sys.stdin.isatty():
        raise DataError("- is a picture from stdin, which is a terminal: send one, as in `cat photo.jpg | ...`")
    with tempfile.NamedTemporaryFile(prefix="stdin-") as file:
        if not file.write(sys.stdin.buffer.read()):
            raise DataError("stdin is empty, where - stands for a picture from it")
        file.flush()
        try:
            return read_photo_as_seen(Path(file.name))
        except DataError as error:
            raise DataError(str(error).replace(shown(Path(file.name)), "stdin")) from None


def places(photos: Iterable[Path], out: Path) -> dict[Path, Path]:
    """{photograph: the folder below `out` for what is predicted of it}; nothing is written yet.

    photos: pictures, videos, STDIN, and folders, which stand for the pictures right in them. A photograph's folder has
    its name without the ending, with as many of the folders above it as tell it from others of that name; where two
    differ in the ending alone, with that; that of STDIN is called stdin. Raises DataError for files that are missing,
    for a folder without pictures, and for an `out` where files are in the way, its own ones for example.
    """
    names = {_named(photo): photo for each in photos for photo in _pictures(each)}
    if missing := [photo for photo in names.values() if photo != STDIN and not photo.is_file()]:
        listed = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(f"{len(missing)} of {len(names)} photographs are no files: {listed}; nothing was done")
    whole = Counter(_key(name) for name in names)
    stems = Counter(_key(name.with_suffix("")) for name in names)
    named_as = {
        photo: name if stems[key] > 1 or (whole[key] and name.suffix) else name.with_suffix("")
        for name, photo in names.items()
        for key in [_key(name.with_suffix(""))]
    }
    found = {photo: out / _tail(name, list(named_as.values())) for photo, name in named_as.items()}
    for photo, folder in found.items():
        if in_the_way := next((each for each in (folder, *folder.parents) if each.is_file()), None):
            raise DataError(
                f"--out {out}: {in_the_way} is a file where the folder of results of {photo} should be; give a folder "
                "of its own"
            )
    return found


def _named(photo: Path) -> Path:
    """The whole path, by which the same file is known if it is given twice."""
    return _STDIN_NAME if photo == STDIN else Path(os.path.abspath(photo))


def _key(path: Path) -> str:
    """Of a name; case does not tell names apart on every disk."""
    return os.path.abspath(path).casefold()


def _pictures(path: Path) -> list[Path]:
    """The path itself, or the pictures right in a folder, by name."""
    if not path.is_dir():
        return [path]
    found = sorted(
        each for each in path.iterdir() if each.suffix.lower() in _ENDINGS and each.name[0] != "." and each.is_file()
    )
    if not found:
        raise DataError(f"{path} is a folder without pictures ({', '.join(_ENDINGS)}); nothing was done")
    return found


def _tail(photo: Path, photos: list[Path]) -> Path:
    """The last parts of a path that no other has; never `..`. Case does not tell names apart on every disk."""

    def last(path: Path, count: int) -> tuple[str, ...]:
        return tuple(part.casefold() for part in _parts(path)[-count:])

    parts = _parts(photo)
    for count in range(1, len(parts)):
        if sum(last(photo, count) == last(other, count) for other in photos) == 1:
            return Path(*parts[-count:])
    return Path(*parts)


def _parts(path: Path) -> tuple[str, ...]:
    return Path(os.path.abspath(path)).parts[1:]
