"""The real graph, run by DVC in a git repository of its own on a tiny profile: all six tasks, several architectures.

Two stages at a time run it the first time; that they leave what `dvc repro` leaves is then seen by a second one.
"""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote_plus

import mlflow
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from pipeline.comparison.baselines import COST
from pipeline.core.names import DATASET_TASKS
from pipeline.core.paths import run_file, write_json
from pipeline.core.provenance import Inputs
from pipeline.params.load import load_params
from pipeline.tasks import TASKS
from pipeline.train.renamed import find_former
from tests.support.project import ALONE, Project

pytestmark = pytest.mark.e2e

SIX = list(DATASET_TASKS["rooms"])

PARAMS = {
    "experiment": "tiny",
    "data": {
        "dataset": "rooms", "tasks": SIX, "limit": None, "archive": None, "folder": "data/own",
        "rooms": {"seed": 0, "train": 12, "val": 5, "size": [32, 64]},
    },
    "training": {
        "backbone": "test_efficientnet", "input_size": [32, 64], "batch_size": 4, "epochs": 2, "lr": 1.0e-3,
        "validate_every": 0,
        "augmentation": {"flip": 0.5, "scale": [1.0, 1.2], "scale_mode": "choice", "rotation": 0.0},
    },
    "evaluation": {
        "batch_size": 4, "panels": 2, "allow_different": [], "select_on": None, "edge_nms": False, "split": "val",
    },
    "seeds": [0],
    "runs": {
        "semseg": {"architecture": "single_task", "tasks": ["semseg"], "training": {"lr": 1.0e-3}},
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
        "multi_task": {"architecture": "multi_task", "tasks": SIX, "training": {"lr": 1.0e-3}},
        "sca": {
            "architecture": "sequential_attention", "tasks": ["semseg", "depth"], "auxiliary_tasks": ["normals"],
            "training": {"lr": 1.0e-3},
        },
    },
    "runs_from_single_task": {  # hardly moves, so that one sees where it started
        "stitched": {"architecture": "cross_stitch", "tasks": ["semseg", "depth"], "training": {"lr": 1.0e-9}},
    },
    "tuned": {},
}  # fmt: skip
RUNS = PARAMS["runs"] | PARAMS["runs_from_single_task"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"), PARAMS)
    project.processes = ("stages.single_task_weights",)  # the other stages are processes in test_machine_faults.py
    project.variables = ALONE
    project.stage("parallel", "--jobs", "2")
    return project


def test_evaluation_reproduces_the_last_validation_exactly(project):
    for run in RUNS:
        scored = project.json(f"reports/metrics/{run}-0.json")["tasks"]
        validated = project.json(f"models/{run}-0/run.json")["last_validation"]
        assert scored == validated
        assert set(scored) == set(RUNS[run]["tasks"])


def test_a_network_starts_from_the_trained_single_task_networks(project):
    stitched = load_file(project.root / "models/stitched-0/weights.safetensors")
    for task in ("semseg", "depth"):
        for name, value in load_file(project.root / f"models/{task}-0/weights.safetensors").items():
            if name.endswith((".weight", ".bias")):
                part, _, rest = name.partition(".")
                assert_close(stitched[f"{part}s.{task}.{rest}"], value, rtol=0, atol=1e-6)
    assert project.json("reports/metrics/stitched-0.json")["starts_from"] == {"semseg": "semseg", "depth": "depth"}
    assert "stitched: starts from the trained networks of semseg, depth" in (
        (project.root / "reports/report.md").read_text()
    )


def test_every_task_is_scored(project):
    scores = project.json("reports/metrics/multi_task-0.json")["tasks"]
    for name, task in ((name, TASKS[name]) for name in SIX):
        assert np.isfinite(scores[name][task.primary_metric]), name


def test_delta_is_the_formula_applied_to_the_metrics_files(project):
    def score(run: str, task: str, metric: str) -> float:
        return project.json(f"reports/metrics/{run}-0.json")["tasks"][task][metric]

    miou = (score("sca", "semseg", "mIoU") - score("semseg", "semseg", "mIoU")) / score("semseg", "semseg", "mIoU")
    rmse = -(score("sca", "depth", "rmse") - score("depth", "depth", "rmse")) / score("depth", "depth", "rmse")
    delta = project.json("reports/delta.json")["delta_m"]
    assert delta["sca"]["mean"] == pytest.approx(100 * (miou + rmse) / 2)
    assert "multi_task" not in delta  # it has tasks without a baseline
    assert "no single-task run for normals" in (project.root / "reports/report.md").read_text()


def test_report_shows_what_it_names(project):
    report = (project.root / "reports/report.md").read_text()
    pictures = [line.split("](")[1].rstrip(")") for line in report.splitlines() if line.startswith("![")]
    assert len(pictures) == 2 + 1 + 1 + 2  # panels, gains, curves, attention
    for picture in pictures:
        assert (project.root / "reports" / picture).stat().st_size > 5000
    assert "| trivial predictor |" in report
    page = (project.root / "reports/report.html").read_text()
    assert all(f"<code>{run}</code>" in page for run in RUNS) and 'id="pictures"' in page and "alt=" in page
    assert "Attention of sca: Depth" in page and "Attention of multi_task" not in page
    parameters, macs, activations = (project.json("reports/metrics/sca-0.json")[key] for key in COST)
    told = f"| {parameters / 1e6:.2f} | {macs / 1e9:.2f} | {activations / 2**20:.1f} |"
    assert told in next(line for line in report.splitlines() if line.startswith("| `sca` |"))


def test_mlflow_has_one_finished_run_for_training_and_evaluation(project):
    client = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {f"{run}-0" for run in RUNS} | {"comparison"}
    assert runs["stitched-0"].data.tags["pretrained"] == "a trained single-task network"
    run = runs["sca-0"]
    assert run.info.status == "FINISHED"
    assert run.data.params["training.lr"] == "0.001" and run.data.params["architecture"] == "sequential_attention"
    scored = project.json("reports/metrics/sca-0.json")
    assert all(run.data.params[key] == str(scored[key]) and scored[key] > 0 for key in COST)
    assert {
        "loss/semseg",
        "loss_auxiliary/semseg",
        "loss_auxiliary/normals",
        "learning_rate",
        "val/depth/rmse",
        "depth/rmse",
    } <= set(run.data.metrics)
    tags = run.data.tags
    assert tags["git.commit"] == project.git("rev-parse", "HEAD").strip() and tags["git.dirty"] == "false"
    assert tags["dvc.stage"] == "train@sca-0"
    assert len(tags["input_fingerprint"]) == 64
    digest = project.json("data/prepared/dataset.json")["digest"]
    linked = {(each.dataset.name, each.dataset.digest, each.tags[0].value) for each in run.inputs.dataset_inputs}
    assert linked == {("rooms train", digest[:36], "training"), ("rooms val", digest[:36], "evaluation")}
    assert run.data.metrics["cost/training_seconds"] > 0 and run.data.metrics["cost/peak_memory_mb"] > 100
    assert tags["weights_sha256"] == project.json("models/sca-0/run.json")["weights_sha256"]
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"checkpoint", "panels", "sca-0.json", "sca-0.csv", "run.json", "execution.json"} <= artifacts
    written = Path(client.download_artifacts(run.info.run_id, "params.yaml")).read_text()
    assert written == (project.root / "params.yaml").read_text(), "with the user's comments"
    resolved = json.loads(Path(client.download_artifacts(run.info.run_id, "resolved_params.json")).read_text())
    assert len(run.data.params) < 30 < len(resolved) and resolved["training.power"] == 0.9
    assert not [name for name in run.data.metrics if name.endswith(("/images", "/valid_pixels"))]
    validated = {point.step for point in client.get_metric_history(run.info.run_id, "val/depth/rmse")}
    slider = [each.path for each in client.list_artifacts(run.info.run_id, "images") if each.path.endswith(".webp")]
    assert sorted((path.split("+")[0], int(path.split("+")[2])) for path in slider) == [
        (f"images/panels~{task}", step) for task in sorted(scored["tasks"]) for step in sorted({0} | validated)
    ]
    (picture,) = client.list_artifacts(run.info.run_id, "panels")
    assert f"path={quote_plus(picture.path)}&run_uuid={run.info.run_id}" in tags["mlflow.note.content"]
    comparison = runs["comparison"]
    assert {tags["mlflow.parentRunId"] for tags in (each.data.tags for each in runs.values()) if "run" in tags} == {
        comparison.info.run_id
    }
    assert comparison.data.metrics["delta_m/sca"] == run.data.metrics["delta_m"]
    kept = {item.path for item in client.list_artifacts(comparison.info.run_id)}
    assert kept == {"delta.json", "report.html"}


def test_dvc_shows_a_few_metrics_and_pictures(project):
    """Its views by run and task, without hashes; its page of plots has pictures alone, which need no network."""
    shown = json.loads(project.dvc("metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["reports/summary.json"]
    sca = shown["reports/summary.json"]["data"]["sca"]
    delta = project.json("reports/delta.json")
    assert sca["semseg_mIoU"] == delta["scores"]["sca"]["semseg"]["mean"]
    gain = delta["delta_m"]["sca"]
    assert [sca[key] for key in ("delta_m", "delta_m_low", "delta_m_high")] == [
        gain["mean"], gain["interval"]["low"], gain["interval"]["high"]
    ]  # fmt: skip
    plots = json.loads(project.dvc("plots", "show", "--json"))
    assert "errors" not in plots
    kinds = {name: {each["type"] for each in found} for name, found in plots["data"].items() if found}
    assert "reports/figures/curves.png" in kinds and set.union(*kinds.values()) == {"image"}


def test_a_second_repro_does_nothing(project):
    assert "Data and pipelines are up to date" in project.dvc("repro")
    path = project.root / "params.yaml"
    before = path.read_text()
    path.write_text(before + "checkpoint_minutes: 3\n")  # changes no result
    try:
        assert "Data and pipelines are up to date" in project.dvc("status")
    finally:
        path.write_text(before)


def test_results_are_traced_to_their_runs_and_nothing_is_left_behind(project):
    code, output = project.ends("trace", "reports/metrics/stitched-0.json", "--json")
    found = json.loads(output)
    assert code == 0 and found["reproducible"] and not found["notes"], output
    assert found["model"] == "models/stitched-0" and found["mlflow"]["name"] == "stitched-0"
    assert found["recorded"]["git.commit"] == project.git("rev-parse", "HEAD").strip()
    assert project.ends("doctor") == (0, "nothing left to fix\n")


def test_what_is_made_again_leaves_committed_files_as_they_were(project, tmp_path):
    """Times, machine and MLflow's ids are in MLflow alone: neither in reports nor in what dvc.lock has digests of."""
    again = project.copy(tmp_path / "again")
    again.variables = project.variables
    with (again.root / "pipeline/evaluation/cost.py").open("a") as code:  # what training wrote stands as it is
        code.write("\n# edited\n")
    again.git("add", ".")
    again.git("commit", "-m", "Record the results")
    before, recorded = again.json("models/depth-0/run.json"), outs(again)
    stages = ("check", "prepare", "selection", "adoption", "train@depth-0", "evaluate@depth-0", "compare", "report")
    assert ran(again.dvc("repro", "-s", "-f", *stages)) == set(stages)
    assert again.git("status", "--porcelain") == " M dvc.lock\n" and outs(again) == recorded, "the edit, and no result"
    client = mlflow.MlflowClient(f"sqlite:///{again.root / 'mlflow.db'}")
    runs = client.search_runs(
        [client.get_experiment_by_name("tiny").experiment_id], f"tags.weights_sha256 = '{before['weights_sha256']}'"
    )
    assert len(runs) == 2, "the same weights, of two trainings"
    assert all(run.info.status == "FINISHED" and run.data.metrics["depth/rmse"] > 0 for run in runs)


def outs(project: Project) -> dict[str, str]:
    """{path: digest} of all that DVC has recorded."""
    stages = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}


def rename_run(project: Project, old: str, new: str) -> None:
    path = project.root / "params.yaml"
    path.write_text(path.read_text().replace(f"  {old}:\n", f"  {new}:\n"))


def test_a_renamed_run_is_scored_again_and_not_trained(project, tmp_path):
    renamed = project.copy(tmp_path / "renamed")
    rename_run(renamed, "multi_task", "flagship")
    output = renamed.dvc("repro", "evaluate@flagship-0")
    assert "flagship-0 is multi_task-0 by another name: its weights are taken over, nothing is trained" in output
    for file in ("models/{}-0/weights.safetensors", "reports/history/{}-0.csv", "models/digests/{}-0.json"):
        old, new = (renamed.root / file.format(name) for name in ("multi_task", "flagship"))
        assert old.read_bytes() == new.read_bytes()
    before, after = (renamed.json(f"reports/metrics/{name}-0.json") for name in ("multi_task", "flagship"))
    assert after == before | {"run": "flagship"}
    client = mlflow.MlflowClient(f"sqlite:///{renamed.root / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], "tags.run = 'flagship'")
    assert run.data.tags["restored"] == "true" and run.data.metrics["depth/rmse"] == after["tasks"]["depth"]["rmse"]


def test_a_damaged_former_is_not_taken_over(project, tmp_path, monkeypatch):
    renamed = project.copy(tmp_path / "renamed")
    rename_run(renamed, "sca", "flagship")
    monkeypatch.chdir(renamed.root)
    params, inputs = load_params(), Inputs({"any": "input"})
    record = renamed.json("models/sca-0/run.json") | {"input_fingerprint": inputs.fingerprint}
    write_json(run_file("sca", 0), record)
    assert find_former(params, 0, inputs) == Path("models/sca-0")
    assert find_former(params, 1, inputs) is None and find_former(params, 0, Inputs({})) is None
    weights = Path("models/sca-0/weights.safetensors")
    content = weights.read_bytes()
    weights.unlink()  # it may be a link into DVC's cache
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert find_former(params, 0, inputs) is None
    rename_run(renamed, "flagship", "sca")
    weights.write_bytes(content)
    assert find_former(load_params(), 0, inputs) is None, "params ask for it: it is no former name"


@pytest.mark.parametrize("wrong", ["training.lr=fast", "runs.sca.tasks=[chairs]"])
def test_params_that_are_refused_cost_nothing(project, tmp_path, wrong):
    """DVC removes the outs of a stage before it runs: `check` has none that anybody would miss."""
    refused = project.copy(tmp_path / "refused")
    code, output = refused.run_any(sys.executable, "-m", "dvc", "exp", "run", "-S", wrong)
    assert code and "failed to reproduce 'check'" in output and "Traceback" not in output
    for place in ("data/raw", "data/prepared", "models", "reports"):
        kept = [{p.relative_to(each.root) for p in (each.root / place).rglob("*")} for each in (project, refused)]
        assert kept[0] == kept[1]


def ran(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def test_an_experiment_reruns_only_what_its_change_touches(project):
    output = project.dvc("exp", "run", "--name", "slow", "-S", "runs.multi_task.training.lr=1e-5")
    looked = "single_task_weights@stitched-0"  # sees that what `stitched` starts from is the same
    edited = {"train@multi_task-0", "evaluate@multi_task-0"}
    assert ran(output) == {"check", "adoption", *edited, looked, "compare", "report"}
    client = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    newest = client.search_runs([experiment.experiment_id], "tags.run = 'multi_task'", order_by=["start_time DESC"])[0]
    assert newest.data.params["training.lr"] == "1e-05"
    assert newest.data.tags["dvc.experiment"] == "slow"


def test_another_single_task_network_reruns_what_starts_from_it(project):
    before = project.json("models/start/stitched-0.json")
    target = "train_from_single_task@stitched-0"
    output = project.dvc("exp", "run", "-S", "runs.semseg.training.lr=2e-3", target)
    assert ran(output) == {"check", "adoption", "train@semseg-0", "single_task_weights@stitched-0", target}
    after = project.json("models/start/stitched-0.json")
    assert after["depth"] == before["depth"] and after["semseg"] != before["semseg"]


def test_metrics_files_say_how_and_on_what_they_were_scored(project):
    scored = project.json("reports/metrics/multi_task-0.json")
    assert set(scored["protocol"]) == {"all", *SIX} and all(scored["protocol"].values())
    assert scored["samples"] == 5 and scored["skipped"] == {"train": 0, "val": 0} and not scored["published_split"]
    assert scored["dataset_digest"] == project.json("data/prepared/dataset.json")["digest"]
    for task in SIX:
        assert scored["tasks"][task]["images"] <= 5 and scored["tasks"][task]["valid_pixels"] > 0


def test_a_wrong_param_stops_the_graph_with_one_message(project):
    path = project.root / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("batch_size: 4", "batch_sise: 4", 1))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "stages.train", "--run", "sca", "--seed", "0"],
            cwd=project.root, text=True, capture_output=True,
        )  # fmt: skip
    finally:
        path.write_text(before)
    assert done.returncode == 2
    assert "batch_sise" in done.stderr and "batch_size" in done.stderr and "Traceback" not in done.stderr
