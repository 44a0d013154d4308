"""docs/results.ipynb as it is committed: a notebook of nbformat 4.5 with its outputs, which are the recorded default's.

That its cells run is tested in tests/e2e/test_tutorial.py.
"""

from __future__ import annotations

import ast
import base64
import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.results.comparison import Comparison
from tests.support.notebook import ROOT, code_cells, read_notebook, run_cells

NOTEBOOK = read_notebook()
LINES, PICTURE_BYTES = 25, 60_000
ABSOLUTE = re.compile(r"""(?:^|[\s"'`(=])((?:file:)?/[\w.-]+/|[A-Za-z]:\\|~/)""", re.MULTILINE)
CELL = {"cell_type", "id", "metadata", "source"}
OUTPUTS = {
    "stream": {"output_type", "name", "text"},
    "display_data": {"output_type", "data", "metadata"},
    "execute_result": {"output_type", "data", "metadata", "execution_count"},
}


def as_text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def shows(source: str) -> bool:
    """Whether it ends with an expression: Jupyter shows its value, and a figure at plt.show()."""
    return isinstance(ast.parse(source).body[-1], ast.Expr)


def problems_of_output(output: dict[str, Any]) -> Iterator[str]:
    if set(output) != OUTPUTS.get(output["output_type"]):
        yield f"an output of the kind {output['output_type']} with {', '.join(output)}"
    elif output["output_type"] == "stream":
        if output["name"] != "stdout":
            yield "a warning"
        yield from absolute_paths(as_text(output["text"]))
    else:
        for kind, content in output["data"].items():
            if kind == "image/png":
                picture = base64.b64decode(as_text(content), validate=False)
                if not picture.startswith(b"\x89PNG") or len(picture) > PICTURE_BYTES:
                    yield f"a picture of {len(picture)} bytes, more than {PICTURE_BYTES}, or no PNG"
            else:
                yield from absolute_paths(as_text(content))


def absolute_paths(text: str) -> Iterator[str]:
    yield from (f"an absolute path: {found}" for found in ABSOLUTE.findall(text))


def problems_of_cell(cell: dict[str, Any], place: int) -> Iterator[str]:
    """place: of a code cell, which of them it is, from 1."""
    code = cell["cell_type"] == "code"
    source = as_text(cell["source"])
    if set(cell) != CELL | ({"outputs", "execution_count"} if code else set()) or cell["metadata"]:
        yield f"keys {', '.join(cell)} and metadata {cell['metadata']}"
    yield from absolute_paths(source)
    if not code:
        return
    if len(source.splitlines()) > LINES:
        yield f"more than {LINES} lines"
    if cell["execution_count"] != place:
        yield f"was run as number {cell['execution_count']}: run all cells of a new kernel"
    if shows(source) and not cell["outputs"]:
        yield "shows something, and has no output"
    for output in cell["outputs"]:
        yield from problems_of_output(output)


def problems(notebook: dict[str, Any]) -> list[str]:
    found = []
    if (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
        found.append("is not nbformat 4.5")
    if set(notebook["metadata"]) != {"kernelspec", "language_info"}:
        found.append(f"metadata of the notebook: {', '.join(notebook['metadata'])}")
    elif notebook["metadata"]["kernelspec"]["name"] != "python3":
        found.append("a kernel that only one machine has")
    ids = [cell["id"] for cell in notebook["cells"]]
    found += [f"{id_}: twice" for id_ in sorted({id_ for id_ in ids if ids.count(id_) > 1})]
    place = 0
    for cell in notebook["cells"]:
        place += cell["cell_type"] == "code"
        found += [f"{cell['id']}: {problem}" for problem in problems_of_cell(cell, place)]
    return found


def test_it_is_whole_and_of_no_machine():
    assert not problems(NOTEBOOK)


def broken(how: str) -> dict[str, Any]:
    notebook = copy.deepcopy(NOTEBOOK)
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "gains-figure")
    picture = cell["outputs"][0]["data"]
    match how:
        case "kernel":
            notebook["metadata"]["kernelspec"]["name"] = "of-mine"
        case "times":
            cell["metadata"]["execution"] = {"iopub.execute_input": "2026-11-29T04:00:00Z"}
        case "order":
            cell["execution_count"] += 1
        case "cleared":
            cell["outputs"] = []
        case "picture":
            picture["image/png"] = base64.b64encode(b"\x89PNG" + bytes(PICTURE_BYTES)).decode()
        case "path in a text":
            picture["text/plain"] = ["<PosixPath '/home/somebody/clone/reports'>"]
        case "path in the code":
            cell["source"] = ['start = Path("/content/clone")\n', *cell["source"]]
        case "long":
            cell["source"] = ["pass\n"] * LINES + cell["source"]
        case "warning":
            cell["outputs"].append({"output_type": "stream", "name": "stderr", "text": ["UserWarning"]})
        case "error":
            cell["outputs"].append({"output_type": "error", "ename": "KeyError", "evalue": "'low'", "traceback": []})
        case "id":
            cell["id"] = "gains"
    return notebook


@pytest.mark.parametrize(
    "how",
    ["kernel", "times", "order", "cleared", "picture", "path in a text", "path in the code", "long", "warning", "error",
     "id"],
)  # fmt: skip
def test_what_is_wrong_is_found(how: str):
    assert len(problems(broken(how))) == 1


def test_it_shows_the_recorded_default():
    recorded = Comparison.read(ROOT / "reports/delta.json")
    outputs = [output for cell in NOTEBOOK["cells"] for output in cell.get("outputs", ())]
    shown = "\n".join(as_text(output.get("text") or output["data"]["text/plain"]) for output in outputs)
    for run, gain in recorded.delta_m.items():
        assert gain.interval is not None
        numbers = (f"{value:.2f}" for value in (gain.mean, gain.interval.low, gain.interval.high))
        assert re.search(rf"^{run} +{' +'.join(map(re.escape, numbers))}$", shown, re.MULTILINE), run
    assert recorded.conclusions and all(sentence in shown for sentence in recorded.conclusions)


@pytest.mark.parametrize("start", [".", "docs", "docs/deep"])
def test_it_starts_anywhere_in_the_project(start: str, tmp_path: Path):
    for folder in ("docs/deep", "reports"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("dvc.yaml", "reports/delta.csv"):
        (tmp_path / file).touch()
    end = "print(Path.cwd(), sys.path[0])"
    done = run_cells([code_cells(NOTEBOOK)[0], end], tmp_path / start, os.environ)
    assert done.stdout.split() == [str(tmp_path.resolve())] * 2, done.stderr


@pytest.mark.parametrize(("files", "remedy"), [((), "set `start` to your clone"), (("dvc.yaml",), "run `make repro`")])
def test_it_says_what_is_missing(files: tuple[str, ...], remedy: str, tmp_path: Path):
    for file in files:
        (tmp_path / file).touch()
    done = run_cells([code_cells(NOTEBOOK)[0]], tmp_path, os.environ)
    assert done.returncode and remedy in done.stderr.splitlines()[-1]
