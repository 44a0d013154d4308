"""A checkpoint of a released code as a run, by the real stages and DVC: the scores of the weights that it is made of.

Networks are trained here, their weights saved under the released names, as that code saves them, and adopted as other
runs: every score must be the same to the last bit.
"""

import json

import mlflow
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.blank_store import put_blank_store
from tests.support.project import ALONE, Project
from tests.support.renamed_weights import mti_net_names

pytestmark = pytest.mark.e2e

PARAMS = {
    "experiment": "adopted",
    "data": {
        "dataset": "rooms", "tasks": ["semseg", "depth"], "limit": None, "archive": None, "folder": "data/own",
        "rooms": {"seed": 0, "train": 6, "val": 4, "size": [32, 64]},
    },
    "training": {
        "backbone": "hrnet_w18_small", "input_size": [32, 64], "batch_size": 3, "epochs": 1, "lr": 1.0e-3,
        "validate_every": None, "augmentation": {"flip": 0.5},
    },
    "evaluation": {
        "batch_size": 4, "panels": 1, "allow_different": [], "select_on": None, "edge_nms": False, "split": "val",
    },
    "seeds": [0],
    "runs": {
        "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
        "mti": {"architecture": "mti_net", "tasks": ["semseg", "depth"]},
    },
    "runs_from_single_task": {}, "tuned": {},
}  # fmt: skip
PUBLISHED = """\
  published:    # what the authors gave
    architecture: mti_net
    tasks: [semseg, depth]   # in their order

  published_semseg: {architecture: single_task, tasks: [semseg]}
"""
FILES = {"published": "mti.pth.tar", "published_semseg": "semseg.safetensors"}
OF = {"published": "mti", "published_semseg": "semseg"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Three trained runs, and two that are made of their weights."""
    project = Project(tmp_path_factory.mktemp("adopted"), PARAMS)
    project.variables = ALONE
    put_blank_store(project.root)
    project.dvc("repro")
    folder = project.root / "checkpoints"
    folder.mkdir()
    weights = {
        run: mti_net_names(load_file(project.root / f"models/{run}-0/weights.safetensors")) for run in OF.values()
    }
    saved = {f"module.{name}": value for name, value in weights["mti"].items()}
    best = {"semseg": {"mIoU": np.float64(1.0)}}
    torch.save({"optimizer": {"state": {}}, "model": saved, "epoch": 1, "best_result": best}, folder / "mti.pth.tar")
    save_file({name: value.contiguous() for name, value in weights["semseg"].items()}, folder / "semseg.safetensors")
    path = project.root / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("runs_from_single_task: {}", f"{PUBLISHED}runs_from_single_task: {{}}"))
    return project


@pytest.fixture(scope="module")
def adopted(project):
    """What the command and `dvc repro` print."""
    said = {run: project.stage("adopt", f"checkpoints/{file}", "--as", run) for run, file in FILES.items()}
    return said, project.dvc("repro")


def test_the_command_accounts_for_all_tensors_and_declares_the_run(project, adopted):
    said, _ = adopted
    assert "mti_net in the names of mti_net, epoch 1" in said["published"]
    assert "beside the network it holds optimizer, best_result, which are not looked at" in said["published"]
    assert "note: the names don't say which task it was trained for; the run says semseg" in said["published_semseg"]
    text = (project.root / "params.yaml").read_text()
    assert "published:    # what the authors gave" in text and "[semseg, depth]   # in their order" in text
    runs = yaml.safe_load(text)["runs"]
    for run, file in FILES.items():
        assert runs[run]["adopted"]["0"]["file"] == f"checkpoints/{file}"
    again = project.stage("adopt", "checkpoints/mti.pth.tar", "--as", "published")
    assert "says so already: nothing was changed" in again
    assert (project.root / "params.yaml").read_text() == text


def test_nothing_else_is_trained(adopted):
    _, output = adopted
    ran = {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}
    assert ran == {
        "check", "adoption", "compare", "report",
        *(f"{work}@{run}-0" for work in ("train", "evaluate") for run in FILES),
    }  # fmt: skip
    assert "tensors of the file are the" in output


def test_scores_are_those_of_our_own_weights_to_the_last_bit(project, adopted):
    for run, own in OF.items():
        scored, trained = (project.json(f"reports/metrics/{each}-0.json") for each in (run, own))
        assert scored["tasks"] == trained["tasks"]
        assert scored["predictions_sha256"] == trained["predictions_sha256"]
        assert scored["weights"].startswith("adopted, trained elsewhere: names of mti_net")
        record = project.json(f"models/{run}-0/run.json")
        assert record["weights"] == scored["weights"] and record["weights"].endswith(
            yaml.safe_load((project.root / "params.yaml").read_text())["runs"][run]["adopted"]["0"]["sha256"]
        )
        weights, before = (load_file(project.root / f"models/{each}-0/weights.safetensors") for each in (run, own))
        assert weights.keys() == before.keys()
        assert all(torch.equal(weights[name], before[name]) for name in before)


def test_it_is_compared_under_the_same_protocol_and_marked(project, adopted):
    delta = project.json("reports/delta.json")
    rows = {row["task"]: row for row in delta["per_seed"] if row["run"] == "published"}
    assert rows["semseg"]["baseline_run"] == "published_semseg", "one that was adopted too comes first"
    assert rows["depth"]["baseline_run"] == "depth"
    assert delta["delta_m"]["published"]["mean"] == delta["delta_m"]["mti"]["mean"]
    caveats = [f"{run}: adopted, trained elsewhere: its recipe isn't known here" for run in FILES]
    pair = "published against depth: adopted, trained elsewhere against trained here"
    caveats.append(f"{pair}, so their recipes may differ in anything")
    assert sorted(delta["caveats"]) == sorted(caveats)
    shown, report = project.stage("compare", "--show"), (project.root / "reports/report.md").read_text()
    assert all(f"* {caveat}" in shown and f"- {caveat}" in report for caveat in caveats)
    assert "| `published` (adopted) |" in report and "| `mti` |" in report
    assert "Adopted, trained elsewhere, so their recipe isn't known here: `published`, `published_semseg`." in report


def test_mlflow_says_so(project, adopted):
    client = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("adopted")
    (run,) = client.search_runs([experiment.experiment_id], "tags.run = 'published'")
    assert run.info.status == "FINISHED" and run.data.tags["adopted"] == "true"
    assert run.data.tags["adopted.code"] == "mti_net" and "0 unused" in run.data.tags["adopted.tensors"]
    assert run.data.metrics["depth/rmse"] == project.json("reports/metrics/mti-0.json")["tasks"]["depth"]["rmse"]
    assert {"adoption.json", "checkpoint", "run.json"} <= {each.path for each in client.list_artifacts(run.info.run_id)}


def test_other_commands_take_it_as_any_run(project, adopted):
    photo = project.root / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(photo)
    project.stage("predict", "mti-0,published-0", "photo.png", "--out", "predicted")
    ours, theirs = (np.load(project.root / f"predicted/photo/{run}-0/depth.npy") for run in ("mti", "published"))
    assert np.array_equal(ours, theirs)
    code, output = project.ends("trace", "reports/metrics/published-0.json")
    assert code == 0 and "note: its weights were adopted, trained elsewhere" in output
    assert project.ends("doctor") == (0, "nothing left to fix\n")
    assert "run published is left out" not in project.stage("check")
    assert "5 runs (2 adopted) x 1 seeds (0) = 3 trainings" in project.stage("check")


def test_a_second_repro_does_nothing(project, adopted):
    assert "Data and pipelines are up to date" in project.dvc("repro")


def test_there_is_no_curve_of_what_was_not_trained(project, adopted):
    assert (project.root / "reports/history/published-0.csv").read_text() == "epoch,learning_rate,loss\n"
    assert "errors" not in json.loads(project.dvc("plots", "show", "--json"))


def test_another_file_of_that_name_is_refused(project, adopted, tmp_path):
    copy = project.copy(tmp_path / "copy")
    with (copy.root / "checkpoints/mti.pth.tar").open("ab") as file:
        file.write(b"x")
    code, output = copy.ends("train", "--run", "published", "--seed", "0")
    assert code == 2 and "checkpoints/mti.pth.tar is not the file that params.yaml means" in output
    code, output = copy.ends("check")
    assert code == 2 and "adopted checkpoints/mti.pth.tar is not the file that params.yaml means for seed 0" in output
    (copy.root / "checkpoints/mti.pth.tar").unlink()
    assert "adopted checkpoints/mti.pth.tar of seed 0 is not there" in copy.stage("check"), "its result is"
    code, output = copy.ends("train", "--run", "published", "--seed", "0")
    assert code == 2 and "checkpoints/mti.pth.tar is missing; bring the checkpoint there" in output
    text = (copy.root / "params.yaml").read_text()
    (copy.root / "params.yaml").write_text(text.replace("seeds:\n- 0\n", "seeds:\n- 0\n- 1\n"))
    code, output = copy.ends("check")
    assert code == 2 and "runs.published.adopted: no file for seed 1 of seeds; `python -m stages.adopt FILE" in output


def test_a_renamed_adopted_run_keeps_its_weights(project, adopted, tmp_path):
    renamed = project.copy(tmp_path / "renamed")
    path = renamed.root / "params.yaml"
    path.write_text(path.read_text().replace("  published: ", "  authors: "))
    output = renamed.dvc("repro", "evaluate@authors-0")
    assert "by another name" not in output and "tensors of the file are the" in output
    before, after = (renamed.json(f"reports/metrics/{run}-0.json") for run in ("published", "authors"))
    assert after == before | {"run": "authors"}
