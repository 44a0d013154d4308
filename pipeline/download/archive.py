"""From the name of a dataset's archive, or of a folder that holds its files, to these: checked, unpacked where read.

`data/raw` holds the archive itself and `source.json`, not the thousands of files in it: DVC hashes one file
as fast as the disk reads it. It is unpacked for a reader, into a folder that lives only as long as reading. A folder
stays where it is; `source.json` then stands alone, with a digest of all its files.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.core import paths, removal
from pipeline.core.errors import DataError
from pipeline.core.integrity import file_sha256
from pipeline.download import google_drive, unpacked
from pipeline.download.catalog import Archive
from pipeline.download.own_files import FOLDER_VARIABLE, in_folder, named_by_person
from pipeline.download.transfer import SourceError, copy, download, require_space
from pipeline.download.unpack import inspect, unpack

SOURCE_FILE = "source.json"
_LOCK = "lock"
_UNSET = f"{FOLDER_VARIABLE}: not set"


def fetch(archive: Archive | None, raw: Path, other: str | None = None, pause: float = 1.0) -> dict:
    """Put the archive and its `source.json`, alone, into `raw`; return what `source.json` says.

    The folder that PIPELINE_ARCHIVES names is looked in first (and only read), then each source is asked in
    turn. Interrupted downloads stay in `<raw>.partial`, outside what DVC clears, and are resumed. None: the
    dataset is generated, there is nothing to fetch. pause: seconds between attempts, at first.
    other: another archive of the same layout, used instead: a file name in the folder that PIPELINE_ARCHIVES names,
    a path from the project's root, an http(s) address or `gdrive:<id>`. Its size and sha256 are recorded, not checked.
    A name or path may be that of a folder with the unpacked files: that is read where it lies, never copied.
    `published` in the record: whether this is the archive that the dataset declares, as far as that can be known.
    Raises DataError with every source, what it answered and what can be done by hand.
    """
    partial = raw.with_name(f"{raw.name}.partial")
    try:
        raw.mkdir(parents=True, exist_ok=True)
        if archive is None:
            if other is not None:
                raise DataError(f"data.archive is {other}, but this dataset comes from no archive: set it to null")
            _clear(raw)
            return _record(raw, {"generated": True})
        if other is not None and (paths.project_root() / os.path.expanduser(other)).resolve().is_relative_to(
            raw.resolve()
        ):
            raise DataError(f"data.archive is {other}, but {raw} is emptied before it is filled: keep it elsewhere")
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(partial / _LOCK, timeout=0):
            sources = (FOLDER_VARIABLE, *archive.sources) if other is None else (other,)
            # One partial file for each source, so that two sources' halves are never joined.
            parts = {source: partial / f"{archive.file_name}.{_short_digest(source)}" for source in sources}
            record = _already_there(archive, raw, other) or _fetch(archive, raw, parts, other, pause)
            _tidy(partial, parts.values())
            return record
    except Timeout:
        raise DataError(f"another process is filling {raw}: let that end first") from None
    except OSError as error:
        raise DataError(f"{raw} can't be filled: {error}. Fix that, then run it again.") from error


@contextmanager
def extracted(raw: Path, scratch: Path) -> Iterator[Path]:
    """Yield the folder that a dataset's `splits` and `read` take: unpacked below `scratch`, then removed.

    The archive's own top folder is stepped over. A generated dataset yields `raw` itself; a person's folder is yielded
    as it lies. What a killed call leaves below `scratch` has a name that no later call uses. Raises DataError if `raw`
    holds no whole archive, or the archive a member that would leave the folder or is not a plain file; and if a
    person's folder is not what it was when it was recorded, or changes while it is read.
    """
    source = raw / SOURCE_FILE
    if not source.exists():
        raise DataError(f"{source} is missing: fetch the dataset first, with `dvc repro download`")
    record = paths.read_json(source)
    if record.get("generated"):
        yield raw
        return
    if record.get("folder"):
        with _unchanged_folder(record) as folder:
            yield folder / record["root"]
        return
    path = raw / record["file_name"]
    # By content, too: nothing in a plain tar tells that a byte of it has changed.
    if not path.exists() or path.stat().st_size != record["size"] or file_sha256(path) != record["sha256"]:
        raise DataError(f"{path} is not the file that {source} describes: run `dvc repro -f download`")
    scratch.mkdir(parents=True, exist_ok=True)
    require_space(scratch, record["unpacked_size"], f"unpacking {path.name}")
    with tempfile.TemporaryDirectory(prefix="extracted-", dir=scratch) as folder:
        try:
            unpack(path, Path(folder))
        except (SourceError, OSError) as error:
            raise DataError(f"{path} could not be unpacked: {error}") from error
        yield Path(folder) / record["root"]


@contextmanager
def _unchanged_folder(record: dict) -> Iterator[Path]:
    """The person's folder that `record` is of. Raises DataError where any of its files has changed since."""
    again = "its files have changed since `dvc repro download` recorded them: run `dvc repro -f download`"
    try:
        folder = _recorded_folder(record)
        before = unpacked.listing(folder)
        if unpacked.digest(folder) != record["sha256"]:
            raise DataError(f"{folder}: {again}")
        yield folder
        if unpacked.listing(folder) != before:
            raise DataError(f"{folder}: a file has changed while it was read: run `dvc repro -f download`")
    except SourceError as error:
        raise DataError(f"{record['source']}: {error}; {again}") from error


def _recorded_folder(record: dict) -> Path:
    """Found again by its name, as when it was recorded: where it lies differs from machine to machine."""
    name = record["source"]
    folder = in_folder(record["file_name"]) if name == FOLDER_VARIABLE else named_by_person(name)
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder")
    return folder


def _fetch(archive: Archive, raw: Path, parts: dict[str, Path], other: str | None, pause: float) -> dict:
    _clear(raw)
    wanted = archive if other is None else replace(archive, sha256=None, size=None)
    answers: list[str] = []
    for source, part in parts.items():
        if answers and answers[-1] != _UNSET:
            print(f"{archive.file_name}: {answers[-1]}; trying {source}", file=sys.stderr)
        try:
            if (folder := _folder_of(source, wanted)) is not None:
                facts = {"file_name": folder.name, "source": source, "folder": True, "published": other is None}
                return _record(raw, facts | _checked_folder(wanted, folder))
            _bring(source, wanted, part, pause)
            facts = _checked(wanted, part)
        except SourceError as error:
            answers.append(f"{source}: {error}")
            continue
        os.replace(part, raw / archive.file_name)
        published = other is None or facts["sha256"] == archive.sha256
        return _record(raw, {"file_name": archive.file_name, "source": source, "published": published, **facts})
    if other is not None:
        raise DataError(
            f"data.archive could not be used. {answers[0]}\nIt may be the name of a file or folder in the folder that "
            f"{FOLDER_VARIABLE} is set to, a path from the project's root, an http(s) address or gdrive:<id>; null is "
            "the published archive."
        )
    tried = "\n".join(f"  - {answer}" for answer in answers)
    kept_at = f" Its authors keep it at {archive.kept_at}." if archive.kept_at else ""
    raise DataError(
        f"{archive.file_name} could not be fetched. Tried, in this order:\n{tried}\n"
        f"By hand: get the file in any way, put it as {archive.file_name} into a folder, set the environment "
        f"variable {FOLDER_VARIABLE} to that folder and run again; or name the file, or a folder with its files, in "
        f"data.archive.{kept_at}"
    )


def _folder_of(source: str, archive: Archive) -> Path | None:
    """The person's folder that `source` names, if it is one."""
    if source == FOLDER_VARIABLE:
        found = in_folder(archive.file_name, *archive.aliases, folders=archive.sha256 is None)
    elif re.match(r"\w+://", source) or google_drive.file_id(source) is not None:
        return None
    else:
        found = named_by_person(source)
    return found if found.is_dir() else None


def _bring(source: str, archive: Archive, part: Path, pause: float) -> None:
    """Fill `part` from that source, whatever its kind. Raises SourceError with its answer."""
    if source == FOLDER_VARIABLE:
        copy(in_folder(archive.file_name, *archive.aliases, folders=False), part)
    elif (file := google_drive.file_id(source)) is not None:
        google_drive.download(file, part, archive.size, pause)
    elif source.startswith(("http://", "https://")):
        download(source, part, archive.size, pause)
    elif re.match(r"\w+://", source):
        raise SourceError("an address of a kind that can't be fetched; http, https and gdrive:<id> can")
    else:
        copy(named_by_person(source), part)


def _checked_folder(archive: Archive, folder: Path) -> dict:
    """The facts of a person's folder, if it holds the dataset. Raises SourceError if not."""
    facts = inspect(folder, archive.markers, archive.namesakes)
    return {"size": facts["unpacked_size"], "sha256": unpacked.digest(folder), **facts}


def _checked(archive: Archive, path: Path) -> dict:
    """The file's facts if it is the archive, whole and harmless; SourceError, and the file gone, if not."""
    try:
        size = path.stat().st_size
        if archive.size not in (None, size):
            raise SourceError(f"{size} bytes instead of {archive.size}: cut short, or another file")
        sha256 = file_sha256(path)
        if archive.sha256 not in (None, sha256):
            raise SourceError(f"sha256 is {sha256} instead of {archive.sha256}: damaged, or another file")
        return {"size": size, "sha256": sha256, **inspect(path, archive.markers, archive.namesakes)}
    except SourceError:
        path.unlink()
        raise


def _already_there(archive: Archive, raw: Path, other: str | None) -> dict | None:
    """The record of an earlier fetch, if it was of this archive and its file is unchanged; nothing else is kept."""
    path = raw / archive.file_name
    try:
        record = paths.read_json(raw / SOURCE_FILE)
    except DataError:
        return None
    if not isinstance(record, dict) or record.get("file_name") != archive.file_name or not path.is_file():
        return None
    # A person's own file may have changed, and is soon copied again; what an address gave is kept.
    asked = record.get("published") is True if other is None else record.get("source") == other and _is_address(other)
    wanted = archive.sha256 if other is None and archive.sha256 else record.get("sha256")
    if not asked or file_sha256(path) != wanted:
        return None
    _clear(raw, keep=(archive.file_name, SOURCE_FILE))
    return record


def _is_address(source: str) -> bool:
    return re.match(r"(https?://|gdrive:)", source) is not None


def _clear(raw: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove whatever an earlier or killed fetch left, the record first: without one no file is taken for whole."""
    for path in sorted(raw.iterdir(), key=lambda path: path.name != SOURCE_FILE):
        if path.name not in keep:
            removal.remove(path, raw)


def _tidy(partial: Path, parts: Iterable[Path]) -> None:
    """Remove these partial files; the beginning of another archive may still be of use."""
    for part in parts:
        for path in partial.glob(f"*{part.name}*"):  # its state too, and what a killed call left of that
            removal.remove(path, partial)
    if [path.name for path in partial.iterdir()] == [_LOCK]:
        removal.remove(partial, partial.parent)


def _record(raw: Path, record: dict) -> dict:
    paths.write_json(raw / SOURCE_FILE, record)
    return record


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
