"""The folder that a trained network is kept and shared in: weights, config.json and a model card."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.tools.export.card import model_card
from pipeline.tools.export.config import CARD, CONFIG, WEIGHTS, read_config
from pipeline.tools.export.model import open_model
from pipeline.tools.export.trained import Trained

OWN = (WEIGHTS, CONFIG, CARD)
"""All that the folder holds."""


def export_folder(trained: Trained, out: Path) -> Path:
    """Write the folder `out`, whole or not at all, and open it once. One that was exported before is replaced.

    Raises DataError where something else lies at `out`, and where it can't be written.
    """
    if out.exists() and not _replaceable(out):
        raise DataError(f"{out} exists and is no folder that stages.export wrote: name another with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=paths.PARTIAL))
        try:
            os.chmod(new, 0o755)
            (new / WEIGHTS).write_bytes(trained.weights())
            (new / CONFIG).write_text(trained.config.as_json(), encoding="utf-8")
            (new / CARD).write_text(model_card(trained.config, trained.record), encoding="utf-8")
            open_model(new, "cpu")  # what can't be read again is not left for others
            if out.exists():
                shutil.rmtree(out)
            new.replace(out)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{out} can't be written: {error.strerror or error}") from None
    return out


def _replaceable(out: Path) -> bool:
    """Whether this is empty, or an export and nothing else."""
    if not out.is_dir() or out.is_symlink():
        return False
    found = {path.name for path in out.iterdir()}
    if found - set(OWN):
        return False
    if not found:
        return True
    try:
        read_config(out / CONFIG)
    except DataError:
        return False
    return True
