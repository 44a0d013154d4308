"""Fingerprints change with every input, and an edit during a run is told."""

import ast
import hashlib
import subprocess

import pytest
import yaml

from pipeline.core import provenance
from pipeline.core.errors import TrainingError
from pipeline.core.git import commit_with, git_state
from pipeline.datasets import DATASETS


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline" / "networks").mkdir(parents=True)
    for name in ("pipeline/train/loop.py", "pipeline/networks/blocks.py", "pipeline/report/markdown.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    stage = {"cmd": "true", "deps": ["data/prepared", "pipeline/networks", "pipeline/train/loop.py"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    return tmp_path


def collect(lr=0.1, digest="d"):
    return provenance.collect_inputs("train", {"lr": lr, "seed": 0}, digest)


def test_every_declared_input_counts_and_no_other(project):
    first = collect()
    assert collect().fingerprint == first.fingerprint
    assert collect(lr=0.2).fingerprint != first.fingerprint
    assert collect(digest="e").fingerprint != first.fingerprint
    (project / "pipeline/report/markdown.py").write_text("x = 2\n")
    assert collect().fingerprint == first.fingerprint
    (project / "pipeline/networks/blocks.py").write_text("x = 2\n")
    assert collect().fingerprint != first.fingerprint


def test_an_edit_during_the_run_is_listed(project):
    before = collect()
    before.check_unchanged(collect())
    (project / "pipeline/networks/blocks.py").write_text("x = 3\n")
    (project / "pipeline/networks/new.py").write_text("")
    with pytest.raises(TrainingError, match=r"file pipeline/networks/blocks\.py\n  file .*/new\.py\n  param lr"):
        before.check_unchanged(collect(lr=0.3))


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True, capture_output=True)


def test_git_state_knows_what_dvc_writes_itself(project):
    assert git_state() == {"git.commit": "none", "git.dirty": "unknown"}
    (project / "params.yaml").write_text("a: 1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    assert git_state()["git.dirty"] == "false"
    (project / "params.yaml").write_text("a: 2\n")
    assert git_state()["git.dirty"] == "false"
    (project / "pipeline/train/loop.py").write_text("x = 5\n")
    assert git_state()["git.dirty"] == "true"
    git("checkout", "pipeline/train/loop.py")
    assert git_state()["git.dirty"] == "false"
    (project / "pipeline/new_task.py").write_text("")
    assert git_state()["git.dirty"] == "true"


def test_the_commit_that_brought_given_code(project):
    def digests(*names):
        return {name: hashlib.sha256((project / name).read_bytes()).hexdigest() for name in names}

    def commit(message):
        git("add", ".")
        git("commit", "-m", message)
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()

    assert commit_with({"pipeline/train/loop.py": "0" * 64}) is None, "no repository"
    git("init")
    (project / "pipeline/networks/extra.py").write_text("x = 2\n")
    with_extra = commit("one")
    one = digests("pipeline/train/loop.py", "pipeline/networks/blocks.py")
    (project / "pipeline/networks/extra.py").unlink()
    without_extra = commit("two")
    (project / "pipeline/train/loop.py").write_text("x = 3\n")
    edited = commit("three")
    (project / "unrelated").write_text("")
    commit("four")
    assert commit_with(one, ["pipeline/networks"]) == without_extra, "the folder held one file more before"
    assert commit_with(one) == with_extra
    now = digests("pipeline/train/loop.py", "pipeline/networks/blocks.py")
    assert commit_with(now, ["pipeline/networks"]) == edited
    assert commit_with(now | {"pipeline/train/loop.py": "0" * 64}) is None


def test_git_state_of_a_project_in_a_subfolder_of_a_repository(project, monkeypatch):
    (project / "elsewhere").write_text("1")
    (project / "sub/reports").mkdir(parents=True)
    for name in ("params.yaml", "dvc.lock", "code.py", "reports/report.md"):
        (project / "sub" / name).write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    monkeypatch.chdir("sub")
    for name in ("../elsewhere", "params.yaml", "dvc.lock", "reports/report.md"):
        (project / "sub" / name).write_text("2")
    assert git_state()["git.dirty"] == "false"
    (project / "sub/code.py").write_text("2")
    assert git_state()["git.dirty"] == "true"


def test_the_stage_lists_of_this_project_name_files_that_exist():
    for stage in ("prepare", "train", "evaluate", "selection", "adoption", "single_task_weights", "compare", "report"):
        assert provenance.stage_code(stage)
        assert all(path.exists() for path in provenance.stage_code(stage))


def test_prepare_depends_on_every_reader(root):
    imports = [node for node in ast.walk(ast.parse((root / "pipeline/datasets/__init__.py").read_text()))]
    modules = {node.module for node in imports if isinstance(node, ast.ImportFrom) and node.module}
    readers = {root / f"{name.replace('.', '/')}.py" for name in modules if name.startswith("pipeline.datasets.")}
    readers -= {root / "pipeline/datasets/spec.py"}
    assert len(readers) == len(DATASETS)
    assert readers <= {root / path for path in provenance.stage_code("prepare", root / "dvc.yaml")}
