"""Every folder and file name of the project, and the one way to write a file: whole or not at all.

Paths are relative to the working folder, because DVC runs each stage at the root of the project, or of the copy that
`dvc exp run --temp` makes of it. What must outlive such a copy (the tracking store) lies under `project_root()`.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pipeline.errors import DataError

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")

RAW = Path("data/raw")
PREPARED = Path("data/prepared")
PACKED_FROM = Path("data/packed_from.json")  # apart: data that comes out the same from other code is the same data
MODELS = Path("models")
DIGESTS = MODELS / "digests"
STARTS = MODELS / "start"
SELECTION = MODELS / "selection.json"  # the code that chooses weights, where evaluation.select_on asks for a choice
WEIGHTS, RUN_RECORD = "weights.safetensors", "run.json"  # in a model's folder

REPORTS = Path("reports")
METRICS = REPORTS / "metrics"
DELTA_JSON = REPORTS / "delta.json"
DELTA_CSV = REPORTS / "delta.csv"
REPORT = REPORTS / "report.md"
FIGURES = REPORTS / "figures"
HISTORY = REPORTS / "history"
PANELS = REPORTS / "panels"


def model_dir(run: str, seed: int) -> Path:
    """Folder of one trained network: `weights.safetensors` and `run.json`."""
    return MODELS / f"{run}-{seed}"


def weights_file(run: str, seed: int) -> Path:
    return model_dir(run, seed) / WEIGHTS


def run_file(run: str, seed: int) -> Path:
    """Who trained it: MLflow run id, input fingerprint, git commit, duration, hardware."""
    return model_dir(run, seed) / RUN_RECORD


def digest_file(run: str, seed: int) -> Path:
    """{sha256} of the weights of a run that starts afresh; apart, so that DVC can depend on these and nothing else."""
    return DIGESTS / f"{run}-{seed}.json"


def start_file(run: str, seed: int) -> Path:
    """The single-task networks that a run starts from: {task: {run, sha256}}."""
    return STARTS / f"{run}-{seed}.json"


def metrics_file(run: str, seed: int) -> Path:
    return METRICS / f"{run}-{seed}.json"


def history_file(run: str, seed: int) -> Path:
    """Losses, learning rate and scores by epoch, in the layout that `dvc plots` draws."""
    return HISTORY / f"{run}-{seed}.csv"


def panel_dir(run: str, seed: int) -> Path:
    return PANELS / f"{run}-{seed}"


def project_root() -> Path:
    """The real project, also from within `dvc exp run --temp` or `--queue`, where DVC_ROOT names it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def training_folder(key: str) -> Path:
    """What lets the training of these inputs go on after a kill."""
    return project_root() / ".runs" / "train" / key


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


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Read what a stage wrote. Raises DataError, with the remedy, for a file that is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run `dvc repro` to make it") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
