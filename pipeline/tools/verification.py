"""Whether every byte that a result is made from is still the one that was written: `stages.doctor --verify`.

Reads all weights, histories, predictions, statistics of images, prepared data, checkpoints and JSON, and DVC's local
cache, whose files are named by their MD5. A disk that loses a bit changes neither size nor time of a file, so nothing
else looks again; and where the file is a link into the cache, its only copy on this machine is lost with it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline.core import paths, run_folders
from pipeline.core.errors import DataError, OtherVersionError, UnreadableError
from pipeline.core.integrity import file_sha256, read_checksummed
from pipeline.core.result_file import ResultFile
from pipeline.data.store import damaged_files
from pipeline.evaluation.predictions import predictions_file
from pipeline.results.comparison import Comparison
from pipeline.results.run_metrics import RunMetrics
from pipeline.results.run_record import RunRecord
from pipeline.tools.dvc_orphans import OBJECT

_JSON = (
    "reports/packed_from.json", "data/prepared/dataset.json", "data/prepared/*/index.json", "data/raw/source.json",
    "models/*-[0-9]*/run.json", "models/digests/*-[0-9]*.json", "models/selection.json", "models/adoption.json",
    "models/start/*-[0-9]*.json", "reports/delta.json", "reports/summary.json", "reports/metrics/*-[0-9]*.json",
    "reports/panels/*-[0-9]*/confusion.json",
)  # fmt: skip
_KINDS: dict[str, type[ResultFile]] = {
    "models/*/run.json": RunRecord, "reports/metrics/*.json": RunMetrics, "reports/delta.json": Comparison,
}  # fmt: skip
_RESULTS = (paths.RAW.parent, paths.MODELS, paths.REPORTS)  # where outs lie
_SEE_TO_IT = "it may be sound: see to its rights, or to the disk or network that holds it"
_FETCH = "remove it; `dvc pull`, where a remote has it, or else `dvc repro` brings it"


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written: what is wrong with it, and the remedy.

    links: to the same bytes. removable: whether a stage wrote the file, and nothing is lost with it. whole: of a file
    of DVC's cache, the same with all its bytes, which takes its place: else DVC would run the stage that made it again.
    """

    path: Path
    what: str
    remedy: str = _FETCH
    links: tuple[Path, ...] = ()
    removable: bool = True
    whole: Path | None = None

    def remove(self) -> None:
        """Remove the file, and links to it, which would else pass for whole; put `whole` there. Raises DataError."""
        for path in (self.path, *self.links):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise DataError(f"{path} can't be removed: {error.strerror}") from None
        if self.whole:
            with self.whole.open("rb") as source, paths.atomic(self.path, "wb") as file:
                shutil.copyfileobj(source, file)
            self.path.chmod(0o444)  # as DVC has it


def verify() -> Iterator[Damage]:
    """All that is damaged in this project; nothing is changed. Raises DataError where DVC does not name its cache."""
    yield from _json_files()
    yield from _recorded_files()
    for index in sorted(paths.PREPARED.glob("*/index.json")):
        with suppress(DataError):  # of the index, which `_json_files` reports
            paths.read_json(index)
            yield from (Damage(path, what) for path, what in damaged_files(index.parent))
    yield from _checkpoints()
    yield from _cached()


def _json_files() -> Iterator[Damage]:
    """JSON that does not say what its checksum is of, or holds none, or whose keys are not of this version."""
    for path in sorted(path for pattern in _JSON for path in Path().glob(pattern)):
        try:
            paths.read_json(path)
        except DataError as error:
            what, _, remedy = str(error).removeprefix(f"{path} ").partition("; ")
            kept = isinstance(error, OtherVersionError | UnreadableError)
            yield Damage(path, what, remedy if kept else _FETCH, removable=not kept)
            continue
        try:
            if kind := next((kind for pattern, kind in _KINDS.items() if path.match(pattern)), None):
                kind.read(path)
        except DataError as error:
            what, _, remedy = str(error).removeprefix(f"{path} ").partition("; ")
            yield Damage(path, what, remedy, removable=False)


def _recorded_files() -> Iterator[Damage]:
    """Files whose SHA-256 another file names: weights and histories in run.json, others in a metrics file."""
    for record in sorted(paths.MODELS.glob(f"*/{paths.RUN_RECORD}")):
        with suppress(DataError):  # what `_json_files` reports
            trained = RunRecord.read(record)
            yield from _compared(record.parent / paths.WEIGHTS, trained.weights_sha256, record)
            if record == paths.run_file(trained.run, trained.seed):  # not a person's copy, of an earlier training
                history = paths.history_file(trained.run, trained.seed)
                yield from _compared(history, trained.history_sha256, record)
    for record in sorted(paths.METRICS.glob("*.json")):
        with suppress(DataError):
            scored = RunMetrics.read(record)
            if record == paths.metrics_file(scored.run, scored.seed):
                predictions = predictions_file(scored.run, scored.seed)
                yield from _compared(predictions, scored.predictions_sha256, record)
                statistics = paths.statistics_file(scored.run, scored.seed)
                yield from _compared(statistics, scored.statistics_sha256, record)


def _compared(path: Path, sha256: str, record: Path) -> Iterator[Damage]:
    try:
        if path.is_file() and file_sha256(path) != sha256:
            yield Damage(path, f"is damaged, or not the file that {record} describes (its SHA-256 differs)")
    except OSError as error:
        yield _unreadable(path, error)


def _unreadable(path: Path, error: OSError) -> Damage:
    return Damage(path, f"can't be read: {error.strerror}", _SEE_TO_IT, removable=False)


def _checkpoints() -> Iterator[Damage]:
    """Of trainings that no process is at: one that is, writes them."""
    remedy = "remove it; training continues from the checkpoint before it, or starts from nothing"
    for path in (path for key in run_folders.inactive() for path in sorted(paths.training_folder(key).glob("*.pt"))):
        try:
            read_checksummed(path)
        except DataError as error:
            yield Damage(path, str(error).removeprefix(f"{path} "), remedy)
        except OSError as error:
            yield _unreadable(path, error)


def _cached() -> Iterator[Damage]:
    """Files of DVC's local cache that are not what their names say, with the files of the project that they are."""
    folder = _cache_folder()
    if folder is None:
        return
    files = [path for path in sorted(folder.glob("[0-9a-f][0-9a-f]/*")) if OBJECT.fullmatch(path.name)]
    for path in tqdm(files, desc="verify DVC's cache", unit="file", disable=None):
        try:
            found = _md5(path)
        except OSError as error:
            yield _unreadable(path, error)
            continue
        if found != path.parent.name + path.stem:
            yield damaged_object(path, "is damaged: its MD5 is not its name")


def damaged_object(path: Path, what: str) -> Damage:
    """A file of DVC's cache that is not what its name says, with the file of this project that is, if there is one."""
    whole = _whole_copy(path.parent.name + path.stem)
    remedy = f"replace it by {whole}, which is whole" if whole else _FETCH
    return Damage(path, what, remedy, tuple(_links(path)), whole=whole)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _whole_copy(md5: str) -> Path | None:
    """A file of the project with this MD5: where DVC copies instead of linking, a result may be whole here."""
    for path in (path for folder in _RESULTS for path in sorted(folder.rglob("*"))):
        with suppress(OSError):
            if path.is_file() and _md5(path) == md5:
                return path
    return None


def _cache_folder() -> Path | None:
    """Where DVC keeps files by their MD5; None outside a DVC project, and before it kept any."""
    if not Path(".dvc").is_dir():
        return None
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"`dvc cache dir` failed, so DVC's cache can't be verified:\n{done.stderr.strip()}")
    return Path(done.stdout.strip()) / "files" / "md5"


def _links(cached: Path) -> Iterator[Path]:
    """Files of the project that are hard links to, or symbolic links at, a file of the cache."""
    for path in (path for folder in _RESULTS for path in folder.rglob("*")):
        if path.is_file() and path.samefile(cached):
            yield path
