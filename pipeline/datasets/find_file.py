"""The file of an image's id in a folder, however its ending and its Unicode are spelled."""

from __future__ import annotations

import time
import unicodedata
from functools import lru_cache
from pathlib import Path

from pipeline.core.errors import DataError

_SETTLED = 2_000_000_000  # nanoseconds; a folder that changed within this may change again with the same time stamp


def find_or_refuse(folder: Path, sample_id: str, suffixes: tuple[str, ...]) -> Path:
    """The one file of that id. Raises DataError where there is none."""
    path = find_file(folder, sample_id, suffixes)
    if path is None:
        raise missing(folder, sample_id, suffixes)
    return path


def missing(folder: Path, sample_id: str, suffixes: tuple[str, ...], remedy: str = "") -> DataError:
    """The error that says what is missing, and what endings would do."""
    others = f" ({', '.join(suffixes[1:])} would do as well)" if suffixes[1:] else ""
    return DataError(f"{folder.name}/{sample_id}{suffixes[0]} is missing{others}{remedy}")


def find_file(folder: Path, sample_id: str, suffixes: tuple[str, ...]) -> Path | None:
    """The one file of that id, if there is any. Suffixes are joined by hand: an id may hold dots.

    An ending in capitals does as well, and so does a name in Unicode's other normal form, as macOS writes it.
    """
    spellings = dict.fromkeys((sample_id, *(unicodedata.normalize(form, sample_id) for form in ("NFC", "NFD"))))
    endings = [ending for suffix in suffixes for ending in _cases(suffix)]
    found: list[Path] = []
    for path in (folder / f"{name}{ending}" for name in spellings for ending in endings):
        if path.is_file() and not any(path.samefile(other) for other in found):  # some file systems ignore case
            found.append(path)
    if not found:
        found = _find_in_list(folder, sample_id, suffixes)
    if len(found) > 1:
        raise DataError(f"{folder.name} holds both {found[0].name} and {found[1].name}; keep one")
    return found[0] if found else None


def _cases(suffix: str) -> tuple[str, ...]:
    """.jpg, .JPG and .Jpg"""
    return suffix, suffix.upper(), f".{suffix[1:].capitalize()}"


def _find_in_list(folder: Path, sample_id: str, suffixes: tuple[str, ...]) -> list[Path]:
    """What a look through the whole folder finds: other spellings, such as .jPG. Slow, so only for what is missing."""
    if not folder.is_dir():
        return []
    changed = folder.stat().st_mtime_ns
    settled = time.time_ns() - changed > _SETTLED
    spelled = (_remembered if settled else _spellings)(folder.absolute(), changed)
    name = unicodedata.normalize("NFC", sample_id)
    found = [folder / each for suffix in suffixes for each in spelled.get(name + suffix, ())]
    return sorted(path for path in found if path.is_file())


def _spellings(folder: Path, changed: int) -> dict[str, list[str]]:
    """The names in a folder, by the name in Unicode's form NFC with an ending in small letters."""
    spelled: dict[str, list[str]] = {}
    for path in folder.iterdir():
        name = unicodedata.normalize("NFC", path.name)
        length = len(name) - len(path.suffix)
        spelled.setdefault(name[:length] + name[length:].lower(), []).append(path.name)
    return spelled


# Where a third of ten thousand labels is missing, reading the folder for each of them would take a minute.
_remembered = lru_cache(maxsize=16)(_spellings)
