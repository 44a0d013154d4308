"""A metrics file in a fresh clone: it leads to the commits and says what would be trained, with nothing else there.

One real project is run by DVC and committed; each test clones it and edits the clone.
"""

import json

import pytest
import yaml

from pipeline.core import paths
from tests import soak
from tests.support.blank_store import put_blank_store
from tests.support.project import ALONE, Project

pytestmark = pytest.mark.e2e

METRICS = "reports/metrics/semseg-0.json"
PARAMS = soak.PARAMS | {
    "training": soak.PARAMS["training"]
    | {"backbone": "test_resnet", "epochs": 1, "validate_every": 0, "deterministic": False, "cpu_threads": 1},
    "evaluation": soak.PARAMS["evaluation"] | {"select_on": None},
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A project that was run, its results committed, and its commits: of the code and of the results."""
    project = Project(tmp_path_factory.mktemp("origin"), PARAMS)
    project.variables = ALONE
    put_blank_store(project.root)
    project.dvc("repro", "evaluate@semseg-0")
    trained = project.git("rev-parse", "HEAD").strip()
    project.git("add", ".")
    project.git("commit", "-m", "Record the result")
    recorded = project.git("rev-parse", "HEAD").strip()
    project.git("commit", "--allow-empty", "-m", "Go on")
    return project, trained, recorded


@pytest.fixture
def clone(origin, tmp_path):
    origin[0].git("clone", ".", str(tmp_path / "clone"))
    copy = Project.__new__(Project)
    copy.root = tmp_path / "clone"
    for part in ("models/semseg-0", "data/prepared", "data/raw", "mlflow.db", ".runs"):
        assert not (copy.root / part).exists()
    return copy


def traced(project, *arguments):
    """The exit code and what is printed."""
    return project.ends("trace", METRICS, *arguments)


def edit_params(project, section, **values):
    raw = yaml.safe_load((project.root / "params.yaml").read_text())
    raw[section].update(values)
    (project.root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def append(project, file):
    with (project.root / file).open("a") as code:
        code.write("\n# edited\n")


def test_nothing_differs_and_the_commits_are_named(origin, clone):
    code, text = traced(clone, "--json")
    found = json.loads(text)
    assert (code, found["reproducible"], found["differences"], found["mismatches"]) == (0, True, [], [])
    commits = {"committed in": origin[2], "code as in": origin[1]}
    assert found["recorded"].items() >= commits.items()
    assert found["recorded"]["device"] == "CPU, 1 thread"
    assert found["model"] is None and found["mlflow"] is None and not (clone.root / "mlflow.db").exists()
    missing = [note for note in found["notes"] if "is missing" in note]
    assert missing[0].startswith("models/semseg-0 is missing") and missing[1].startswith("data/prepared is missing")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda p: append(p, "pipeline/tasks/losses.py"), ["file pipeline/tasks/losses.py: "]),
        (lambda p: append(p, "pipeline/datasets/rooms/camera.py"), ["data: file pipeline/datasets/rooms/camera.py: "]),
        (lambda p: append(p, "pipeline/data/store.py"), ["file pipeline/data/store.py: "]),  # once, not twice
        (lambda p: append(p, "pipeline/report/markdown.py"), []),
        (lambda p: edit_params(p, "training", lr=0.5), ["param training.lr: 0.001 -> 0.5"]),
        (lambda p: edit_params(p, "training", cpu_threads=2), ["param cpu_threads: 1 -> 2"]),
        (lambda p: edit_params(p, "data", limit=3), ["data: param data.limit: null -> 3"]),
    ],
)
def test_each_edit_is_named(clone, edit, says):
    edit(clone)
    code, text = traced(clone)
    lines = [line.removeprefix("differs: ") for line in text.splitlines() if line.startswith("differs: ")]
    assert code == bool(says) and len(lines) == len(says), text
    assert all(line.startswith(start) for line, start in zip(lines, says, strict=True)), text


def test_what_git_cannot_vouch_for_is_said(clone):
    edited = clone.json(METRICS)
    named = [line for line in edited["inputs"] if line.startswith("file pipeline/tasks/losses.py=")]
    others = [line for line in edited["inputs"] if line not in named]
    paths.write_json(clone.root / METRICS, edited | {"inputs": [*others, f"file pipeline/tasks/losses.py={'f' * 64}"]})
    code, text = traced(clone)
    assert code == 1 and "committed in" not in text and "code as in" not in text
    assert f"note: {METRICS} is not in git as it is here" in text
    assert "note: no commit of this history has the code that trained: it was edited, or is of another branch" in text


def test_the_commit_of_the_code_is_found_behind_later_ones(origin, clone):
    """The code as it trained, edited since: the older commit is named, and the edit."""
    append(clone, "pipeline/tasks/losses.py")
    for setting in (("user.name", "test"), ("user.email", "test@example.org")):
        clone.git("config", *setting)
    clone.git("commit", "-a", "-m", "Edit the losses")
    code, text = traced(clone)
    assert code == 1 and f"code as in      {origin[1]}" in text and "differs: file pipeline/tasks/losses.py" in text


def test_a_file_of_before_is_one_clear_line(clone):
    old = {key: value for key, value in clone.json(METRICS).items() if key != "inputs"}
    paths.write_json(clone.root / METRICS, old)
    code, text = traced(clone)
    assert code == 2 and text.startswith(
        f"{METRICS} lacks inputs: no stage of this version wrote that; run `dvc repro`"
    )
    paths.write_json(clone.root / METRICS, {key: value for key, value in old.items() if key != "version"})
    code, text = traced(clone)
    assert code == 2 and text.startswith(f"{METRICS} is of no version, this code reads version 2; run `dvc repro`")
    assert len(text.splitlines()) == 1
