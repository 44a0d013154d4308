"""The whole PASCAL-Context profile, stage by stage, on a small archive that a server drops twice on the way."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from torch import nn

import stages.compare
import stages.download
import stages.evaluate
import stages.prepare
import stages.report
import stages.train
from pipeline.compute.device import choose_device
from pipeline.data.store import Store, read_info
from pipeline.evaluation import evaluate_run
from pipeline.evaluation.cross_attention import has_cross_attention
from pipeline.loading.loader import TrainingBatches
from pipeline.networks.from_params import build_network
from pipeline.params.load import parse_params
from pipeline.train.loop import TrainingLoop
from pipeline.train.train_run import _stores, make_augmenter
from stages._entry import run_stage
from tests.reference.losses import plain_loss
from tests.support.archive_site import serve
from tests.support.narrow_hrnet import NARROW
from tests.support.pascal_archive import entries, pascal_tgz
from tests.support.whole_profile import run_profile

pytestmark = pytest.mark.e2e

TRAIN, VAL = 8, 4
SMALL = {"epochs": 1, "batch_size": 4}


def profile(root: Path, address: str) -> dict:
    """The profile with nothing changed but what makes it small: sizes, epochs, and where the archive is."""
    params = yaml.safe_load((root / "profiles/pascal_context.yaml").read_text())
    params["data"]["archive"] = address
    params["training"] |= {"backbone": NARROW, "pretrained": False, "input_size": [64, 96], **SMALL}
    for run in params["runs"].values():
        run["training"] = run.get("training", {}) | SMALL
    return params


def shows_its_attention(network: nn.Module) -> bool:
    """Of the pair alone: each answer costs a pass and a picture, and the five tasks have 110 of them, the pair 20."""
    return has_cross_attention(network) and len(network.tasks) == 2


@pytest.fixture(scope="module")
def done(tmp_path_factory, root):
    """The folder where every stage has run, and what the server was asked."""
    folder = tmp_path_factory.mktemp("pascal")
    content = pascal_tgz(folder / "PASCAL_MT.tgz", TRAIN, VAL).read_bytes()
    with serve() as site, pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_run, "has_cross_attention", shows_its_attention)
        site.files["PASCAL_MT.tgz"] = content
        site.drops = [len(content) // 3, len(content) // 3]
        params = profile(root, site.url("PASCAL_MT.tgz"))
        run_profile(root, folder, params)
        return folder, params, site.asked


def test_the_dropped_download_was_resumed_twice(done):
    folder, _, asked = done
    size = (folder / "PASCAL_MT.tgz").stat().st_size
    assert [asked_for for _, asked_for in asked] == [None, f"bytes={size // 3}-", f"bytes={size // 3 * 2}-"]
    source = json.loads((folder / "data/raw/source.json").read_text())
    assert source["size"] == size and source["published"] is False


SINGLE = ("semseg", "human_parts", "sal", "normals", "edge")


class Recorded:
    """An augmenter that keeps what it hands out."""

    def __init__(self, augmenter):
        self._augmenter, self.batches, self.draw = augmenter, [], augmenter.draw

    def __call__(self, batch, drawn):
        self.batches.append(self._augmenter(batch, drawn))
        return self.batches[-1].map(torch.clone)


@pytest.mark.parametrize("task", SINGLE)
def test_the_first_update_of_a_single_task_is_that_of_an_unweighted_loss(done, root, task):
    """With the profile's own optimiser, schedule and augmentation; the expected one is worked out in plain torch."""
    folder, raw, _ = done
    run = parse_params(raw).run(task)
    recipe = run.training
    assert recipe.task_weights[task] != 1 or task == "semseg", "or nothing would be shown"
    store = Store(folder / "data/prepared/train", (task,)).labelled().select(range(4))
    device = choose_device("float32", False)
    torch.manual_seed(0)
    network = build_network(run, read_info(folder / "data/prepared"))
    expected = copy.deepcopy(network).train()
    augmenter = Recorded(make_augmenter(run))
    batches = TrainingBatches(store, recipe.input_size, recipe.batch_size, 0, on_gpu=False)
    TrainingLoop(network, batches, augmenter, run, 0, device, lambda values, step: None, lambda: {}).train()
    (batch,) = augmenter.batches

    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    outputs = expected((batch.image.float() / 255 - mean) / deviation)
    assert not outputs.auxiliary
    plain_loss(task, outputs.final[task], batch.value[task], batch.valid[task]).backward()
    error, length = 0.0, 0.0
    for ours, start in zip(network.parameters(), expected.parameters(), strict=True):
        update = -0.01 * (start.grad + 1e-4 * start.detach())  # SGD's first step: the momentum is the gradient itself
        error += float((ours.detach() - start.detach() - update).square().sum())
        length += float(update.square().sum())
    assert error**0.5 < 1e-2 * length**0.5  # what is left is float32: weights are far larger than their updates


def test_the_metrics_files_say_which_weights_were_used(done):
    folder, params, _ = done
    weights = {}
    for name in params["runs"]:
        scored = json.loads((folder / f"reports/metrics/{name}-0.json").read_text())
        weights[name] = scored["training"]["task_weights"]
    assert {task: weights[task] for task in SINGLE} == {task: {task: 1.0} for task in SINGLE}
    assert weights["multi_task"] == {"semseg": 1.0, "human_parts": 2.0, "sal": 5.0, "normals": 10.0, "edge": 50.0}
    assert weights["sequential_attention_pair"] == {"semseg": 1.1, "normals": 40.0}


def test_human_parts_alone_are_trained_on_images_with_people_only(done, monkeypatch):
    """Counted in the archive; with other tasks beside them every image has something to teach."""
    folder, params, _ = done
    monkeypatch.chdir(folder)
    people = [entry.id for entry in entries(TRAIN, VAL)["train"] if entry.parts.any()]
    assert 0 < len(people) < TRAIN
    taught, _ = _stores(parse_params(params).run("human_parts"), selects=False)
    assert taught.ids == people
    for name, images in (("human_parts", len(people)), ("semseg", TRAIN), ("multi_task", TRAIN)):
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        experiments = [each.experiment_id for each in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.run = '{name}' and tags.seed = '0'")
        found = client.get_metric_history(run.info.run_id, "learning_rate")
        assert found[-1].step == images // SMALL["batch_size"], name


def test_labels_are_those_of_the_archive(done):
    folder, params, _ = done
    store = Store(folder / "data/prepared/val", params["data"]["tasks"])
    written = entries(TRAIN, VAL)["val"]
    assert store.ids == [entry.id for entry in written]
    for i, entry in enumerate(written):
        semseg, parts = store.label("semseg", i), store.label("human_parts", i)
        np.testing.assert_array_equal(np.where(semseg.valid, semseg.value, 255), entry.semseg)
        np.testing.assert_array_equal(parts.valid, np.full(parts.valid.shape, entry.parts.any()))
        np.testing.assert_array_equal(parts.value[parts.valid], entry.parts[parts.valid])


def test_every_run_is_scored_on_all_its_tasks(done):
    folder, params, _ = done
    for name, run in params["runs"].items():
        scored = json.loads((folder / f"reports/metrics/{name}-0.json").read_text())
        assert set(scored["tasks"]) == set(run["tasks"]) and scored["samples"] == VAL
        for task in run["tasks"]:
            primary_metric = scored["tasks"][task][scored["primary_metric"][task]["metric"]]
            assert primary_metric is not None and np.isfinite(primary_metric), (name, task)
        if "human_parts" in run["tasks"]:
            with_people = sum(entry.parts.any() for entry in entries(TRAIN, VAL)["val"])
            assert scored["tasks"]["human_parts"]["images"] == with_people < VAL


def test_the_report_sets_published_rows_beside_ours(done):
    folder, params, _ = done
    report = (folder / "reports/report.md").read_text()
    section = report.partition("## Published results")[2].partition("\n## ")[0]
    assert "MTI-Net repository" in section and "Jeong & Yoon" in section
    ours = [line for line in section.splitlines() if "this report" in line]
    assert len(ours) == 1 + sum(run["architecture"] != "single_task" for run in params["runs"].values())
    assert all("no: not the whole published dataset, but 8 train, 4 val samples" in line for line in ours)
    delta = json.loads((folder / "reports/delta.json").read_text())
    assert set(delta["delta_m"]) <= {name for name, run in params["runs"].items() if len(run["tasks"]) > 1}


def test_an_edit_during_scoring_is_told_and_no_score_written(done, monkeypatch, capsys):
    folder, params, _ = done
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    written = {path: path.read_bytes() for path in (folder / "reports/metrics").iterdir()}

    def edit(*arguments):
        changed = params | {"evaluation": params["evaluation"] | {"edge_nms": not params["evaluation"]["edge_nms"]}}
        (folder / "params.yaml").write_text(yaml.safe_dump(changed))
        return measure(*arguments)

    measure = evaluate_run.measure
    monkeypatch.setattr(evaluate_run, "measure", edit)
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.evaluate.main, run_and_seed=True, argv=["--run", next(iter(params["runs"])), "--seed", "0"])
    assert ended.value.code == 2 and "\n  param evaluation.edge_nms\n" in capsys.readouterr().err
    assert written == {path: path.read_bytes() for path in (folder / "reports/metrics").iterdir()}
