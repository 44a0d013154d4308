"""docs/tutorial.md, followed to the letter but for numbers of frames: its blocks, in order, in a project of its own.

After the first result the notebook runs on it, docs/results.ipynb.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest
import yaml

from tests.support.blank_store import put_blank_store
from tests.support.notebook import code_cells, read_notebook, run_cells
from tests.support.project import ALONE, ROOT, Project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FEWER = {"data.rooms.train=32": "data.rooms.train=8", '("train", 24)': '("train", 8)'}  # steps, and pages to draw
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<'(\w+)'$")


def commands(block: str) -> Iterator[str]:
    """Its commands, each with the document that it reads, if any."""
    lines = iter(block.splitlines(keepends=True))
    for line in lines:
        if opening := HEREDOC.search(line.rstrip()):
            body = [line]
            while body[-1].rstrip() != opening[1]:
                body.append(next(lines))
            yield "".join(body)
        else:
            yield line


def follow(project: Project, block: str) -> str:
    """What its commands print. DVC and stages are forks of a process that has imported all, others a shell's."""
    printed = ""
    for many, few in FEWER.items():
        block = block.replace(many, few)
    for command in commands(block):
        words = shlex.split(command.splitlines()[0])
        if words[0] == "dvc":
            printed += project.dvc(*words[1:])
        elif words[:2] == ["python", "-m"]:
            printed += project.stage(words[2].removeprefix("stages."), *words[3:])
        else:
            printed += subprocess.run(
                ["bash", "-ec", command], cwd=project.root, env=project.environment, check=True, capture_output=True,
                text=True,
            ).stdout  # fmt: skip
    return printed


def run_as_edited(project: Project, looks: Iterable[str]) -> str:
    """What `python -m stages.NAME` prints, each with the code as it is in the project."""
    stages = [shlex.split(command)[2:] for command in looks]
    order = json.dumps([(name.removeprefix("stages."), *arguments) for name, *arguments in stages])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.bare_stages"], input=order, cwd=project.root, text=True,
        env=project.environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The tutorial's first result. The tests below change it in turn."""
    assert all(many in TUTORIAL for many in FEWER)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["training"]["backbone"] = "test_efficientnet"  # the default's takes minutes; narrow maps, so small weights
    params["evaluation"]["panels"] = 0  # pictures and attention of three reports: test_pipeline.py looks at those
    project = Project(tmp_path_factory.mktemp("tutorial") / "clone", params)
    project.variables = ALONE
    put_blank_store(project.root)
    follow(project, BLOCKS[0])
    return project


ENDS_WITH = """
import json
print(json.dumps({
    "gains": gains["delta"].to_dict(), "logged": logged.to_dict(), "networks": len(networks),
    "epochs": len(history), "saved": by_image["angle saved, °"].to_dict(), "figures": len(plt.get_fignums()),
    "maps": {task: values.shape for task, values in maps.items()},
}))
"""


def test_the_notebook_runs_from_top_to_bottom(project):
    done = run_cells([*code_cells(read_notebook()), ENDS_WITH], project.root, project.environment)
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    delta = project.json("reports/delta.json")
    wanted = {run: gain["mean"] for run, gain in delta["delta_m"].items()}
    assert set(wanted) == {"multi_task", "sequential_attention"}
    assert end["gains"] == pytest.approx(wanted) and end["logged"] == wanted
    assert end["networks"] == end["epochs"] == 4 and end["figures"] == 5
    assert end["maps"] == {"semseg": [64, 64], "normals": [64, 64, 3]}
    angle = delta["scores"]["multi_task"]["normals"]  # every pixel has a normal, so the mean of images is that of all
    assert sum(end["saved"].values()) / 8 == pytest.approx(angle["baseline"] - angle["mean"])


def test_every_block_ends_where_it_says(project):
    _, table, change, differences, trace, own, train_own, use, network, cost, back = BLOCKS

    shown = follow(project, table)
    assert all(run in shown for run in ("single task", "multi_task", "sequential_attention")) and "Δm" in shown

    trained = project.json("models/semseg-0/run.json"), project.json("models/multi_task-0/run.json")
    follow(project, change)
    assert project.json("models/semseg-0/run.json") == trained[0]
    assert project.json("models/multi_task-0/run.json") != trained[1]
    changed = follow(project, differences)
    assert "runs.multi_task.training.lr" in changed and "data.rooms.train" not in changed
    assert "reproducible: every input of this training is the same now" in follow(project, trace)

    assert "train-00000.png" in follow(project, own) and (project.root / "data/own/gt_sets/val.txt").exists()
    assert "multi_task" in follow(project, train_own)
    assert project.json("data/prepared/dataset.json")["dataset"] == "kitchens"
    pages = follow(project, use).split()
    assert len(pages) == 8 + 8 + 2 and all((project.root / page).exists() for page in pages)
    assert (project.root / "predictions/kitchens/val-00000/sequential_attention-0/normals.npy").exists()

    follow(project, network)
    add_run, *looks = commands(cost)
    follow(project, add_run)
    assert len(looks) == 2 and re.search(r"gated\s", run_as_edited(project, looks))
    follow(project, back)
    tracked = (
        "pipeline",
        "params.yaml",
        "data",
    )  # a clone has dvc.lock and reports as well, which this project has not
    assert project.git("status", "--porcelain", *tracked) == "" and "Start" in project.git("log", "--oneline")
    assert not (project.root / "data/own/images").exists() and not (project.root / "predictions").exists()
    assert not (project.root / "pipeline/networks/gated.py").exists()


def test_blocks_that_are_not_run_say_what_they_need():
    *_, last = parts = re.split(r"^```(\w*)\n", TUTORIAL, flags=re.MULTILINE)  # text, kind, block, "", text, ...
    assert last is parts[-1] and set(parts[3::4]) == {""}  # every block is closed
    for text, kind in zip(parts[0::4], parts[1::4], strict=False):
        assert kind == "sh" or text.strip().rpartition("\n\n")[2].startswith("Needs: "), text
