"""docs/results.ipynb: what it holds, and a Python process of its own that runs its cells in order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "results.ipynb"


def read_notebook() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def code_cells(notebook: Mapping[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(cells: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run them in one process, as Jupyter's kernel does that starts in `folder`."""
    return subprocess.run(
        [sys.executable, "-"], input="\n\n".join(cells), cwd=folder, env=dict(environment), text=True,
        capture_output=True,
    )  # fmt: skip
