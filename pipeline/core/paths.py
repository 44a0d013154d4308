"""Every folder and file name of the project, and the one way to write a file: whole or not at all.

Paths are relative to the working folder, because DVC runs each stage at the root of the project, or of the copy that
`dvc exp run --temp` makes of it. What must outlive such a copy (the tracking store) lies under `project_root()`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pipeline.core import forms
from pipeline.core.errors import REPAIR, DataError, OtherVersionError, UnreadableError

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")

RAW = Path("data/raw")
CHECKED = Path("data/checked.json")  # params were valid; the same whatever they say, so that nothing reruns for it
PREPARED = Path("data/prepared")
MODELS = Path("models")
DIGESTS = MODELS / "digests"
STARTS = MODELS / "start"
SELECTION = MODELS / "selection.json"  # the code that chooses weights, where evaluation.select_on asks for a choice
ADOPTION = MODELS / "adoption.json"  # the code that maps the names of checkpoints, by run, for those that are adopted
EXPORTS = Path("exports")  # what stages.export writes, in no stage of the graph
WEIGHTS, RUN_RECORD = "weights.safetensors", "run.json"  # in a model's folder

REPORTS = Path("reports")
PACKED_FROM = REPORTS / "packed_from.json"  # in git, for traces in a clone; apart, so that equal data is no change
METRICS = REPORTS / "metrics"
DELTA_JSON = REPORTS / "delta.json"
DELTA_CSV = REPORTS / "delta.csv"
SUMMARY_JSON = REPORTS / "summary.json"
REPORT = REPORTS / "report.md"
REPORT_HTML = REPORTS / "report.html"
FIGURES = REPORTS / "figures"
HISTORY = REPORTS / "history"
PANELS = REPORTS / "panels"
STATISTICS = REPORTS / "statistics"


def model_dir(run: str, seed: int) -> Path:
    """Folder of one trained network: `weights.safetensors` and `run.json`."""
    return MODELS / f"{run}-{seed}"


def weights_file(run: str, seed: int) -> Path:
    """The trained weights, in safetensors."""
    return model_dir(run, seed) / WEIGHTS


def run_file(run: str, seed: int) -> Path:
    """What it was trained from and on: inputs by content, device, processes, digests of what was written."""
    return model_dir(run, seed) / RUN_RECORD


def digest_file(run: str, seed: int) -> Path:
    """{sha256} of the weights of a run that starts afresh; apart, so that DVC can depend on these and nothing else."""
    return DIGESTS / f"{run}-{seed}.json"


def start_file(run: str, seed: int) -> Path:
    """The single-task networks that a run starts from: {task: {run, sha256}}."""
    return STARTS / f"{run}-{seed}.json"


def metrics_file(run: str, seed: int) -> Path:
    """Scores of one network, and what they were measured on."""
    return METRICS / f"{run}-{seed}.json"


def history_file(run: str, seed: int) -> Path:
    """Losses, learning rate and scores by epoch."""
    return HISTORY / f"{run}-{seed}.csv"


def panel_dir(run: str, seed: int) -> Path:
    """The folder of a network's predictions for the report."""
    return PANELS / f"{run}-{seed}"


def statistics_file(run: str, seed: int) -> Path:
    """What each image of the split adds to a network's primary scores (pipeline/evaluation/statistics.py)."""
    return STATISTICS / f"{run}-{seed}.parquet"


def project_root() -> Path:
    """The real project, also from within `dvc exp run --temp` or `--queue`, where DVC_ROOT names it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def given_file(name: str) -> Path:
    """A file that params name: from the working folder, else from the project's root (`dvc exp run --temp`)."""
    path = Path(name)
    return path if path.exists() or path.is_absolute() else project_root() / name


def training_folder(key: str) -> Path:
    """What lets the training of these inputs resume after a kill."""
    return project_root() / ".runs" / "train" / key


def search_folder(key: str) -> Path:
    """What the workers of one study of `stages.search` on this machine share."""
    return project_root() / ".runs" / "search" / key


PARTIAL = ".partial"
"""How files end that are being written: with a dot before their name. .dvcignore and .gitignore name that form, so that
what a kill leaves of one changes no folder's hash and is not committed."""


@contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes that name when the block ends well, and vanishes otherwise.

    An OSError of the writing names `path`. While it is open the file is locked: see `is_abandoned`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.fchmod(handle, 0o644)  # mkstemp gives 0600; other users may read results
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name):
            error.filename, error.filename2 = str(path), None
        raise


def is_abandoned(path: Path) -> bool:
    """Whether this is what a killed write left: a temporary file of `atomic` that no process on this machine writes."""
    if not (path.name.startswith(".") and path.name.endswith(PARTIAL) and path.is_file() and not path.is_symlink()):
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is being written, or there are no locks, or it is gone
        return False
    return True


CHECKSUM = "checksum"
"""Key of a JSON file's own checksum: a list of one, since `dvc metrics` shows text and skips lists."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping with a checksum of what it says, by which `read_json` finds what has changed since."""
    with atomic(path) as file:
        json.dump({**value, CHECKSUM: [_checksum(value)]}, file, indent=2, allow_nan=False)
        file.write("\n")


def read_json(path: Path, *keys: str, missing: str = "run `dvc repro` to make it") -> dict[str, Any]:
    """Read what `write_json` wrote, without its checksum.

    missing: the remedy where there is no such file. Raises DataError, with the remedy, for a file that is missing or
    can't be read, is no JSON, does not say what its checksum is of, lacks one of `keys`, or holds a name or an id that
    no stage writes (pipeline/core/forms.py).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {missing}") from None
    except OSError as error:
        reason = error.strerror or error
        raise UnreadableError(f"{path} can't be read: {reason}; fix that, then run it again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); {REPAIR}") from None
    checksum = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
    if checksum is None:
        raise OtherVersionError(
            f"{path} is of an older version or damaged: it holds no checksum; run `dvc repro`, and where that finds "
            "nothing to do, delete the file first"
        )
    if checksum != [_checksum(content)]:
        raise DataError(f"{path} is damaged: it has changed since it was written (its checksum is another); {REPAIR}")
    if lacks := [key for key in dict.fromkeys(keys) if key not in content]:
        raise DataError(f"{path} lacks {', '.join(lacks)}: no stage of this version wrote it; run `dvc repro`")
    return forms.check_record(path, content)


def _checksum(value: Mapping[str, Any]) -> str:
    """SHA-256 of what a mapping says as JSON, whatever the blanks and line ends of its file."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()  # of no file that was written, where there is a NaN
