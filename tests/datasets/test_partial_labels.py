"""Own data of which a third of the labels is missing, at random by task, with a test split: through every stage.

Which files are missing is known here, so what each network was trained on is counted from the batches that its steps
took, against that. During training the packed test split is not there at all.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from pipeline.comparison.load_results import load_results
from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.core.errors import ComparisonError, DataError
from pipeline.data.store import Store, read_info
from pipeline.evaluation.evaluate_run import _inputs
from pipeline.params.load import load_params
from pipeline.tracking.queries import find_result
from pipeline.train import step
from pipeline.train.training_inputs import training_inputs
from stages import compare, download, evaluate, prepare, report, train
from tests.support.blank_store import put_blank_store
from tests.support.layout_files import save, write_lists

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SIDE = 32
COUNTS = {"train": 24, "val": 9, "test": 6}
TASKS = {"semseg": "segmentation/{}.png", "depth": "depth/{}.npy"}
FAR = 40.0  # metres, in the test split alone: a network that has never seen it is wrong by most of it
BATCH, EPOCHS = 4, 4
PARAMS = {
    "experiment": "partial",
    "data": {"dataset": "folder", "tasks": list(TASKS)},
    "training": {
        "backbone": "test_resnet", "input_size": [SIDE, SIDE], "batch_size": BATCH, "epochs": EPOCHS, "lr": 1.0e-3,
        "validate_every": 1, "augmentation": {"flip": 0.0}, "precision": "float32",
    },
    "evaluation": {"split": "test", "panels": 2},
    "seeds": [0],
    "runs": {
        "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
        "pair": {"architecture": "multi_task", "tasks": ["semseg", "depth"]},
    },
}  # fmt: skip
RUNS = PARAMS["runs"]


@dataclass
class Result:
    """missing: {split: {task: numbers of images whose label file is not there}}. seen, opened: what each stage read."""

    missing: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    seen: dict[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)
    opened: dict[str, list[str]] = field(default_factory=dict)

    def labelled(self, split: str, task: str) -> set[int]:
        return set(range(COUNTS[split])) - self.missing[split][task]

    def taught(self, run: str) -> set[int]:
        """The training images that have a label of a task of the run."""
        return set().union(*(self.labelled("train", task) for task in RUNS[run]["tasks"]))


def write_data(own: Path, result: Result) -> None:
    """Image i of a split is of red 8 i, so that it is known again in a batch."""
    rng = np.random.default_rng(1)
    for split, count in COUNTS.items():
        names = [f"{split}-{i}" for i in range(count)]
        write_lists(own, **{split: names})
        result.missing[split] = {
            task: set(rng.choice(count, count // 3, replace=False).tolist()) for task in TASKS
        }  # fmt: skip
        for i, name in enumerate(names):
            image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            image[..., 0] = 8 * i
            save(own / f"images/{name}.png", image)
            depth = np.full((SIDE, SIDE), FAR if split == "test" else 1 + i / 10, np.float32)
            for task, value in (("semseg", image[..., 1] // 86), ("depth", depth)):
                if i not in result.missing[split][task]:
                    save(own / TASKS[task].format(name), value)
    description = {"name": "partly", "tasks": list(TASKS), "classes": {"semseg": ["low", "middle", "high"]}}
    description |= {"labels": "partial", "splits": {"test": "gt_sets/test.txt"}}
    (own / "dataset.yaml").write_text(yaml.safe_dump(description))


def write_params(**evaluation: object) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS | {"evaluation": PARAMS["evaluation"] | evaluation}))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Every stage once, in this process; the working folder stays for the tests."""
    folder, found = tmp_path_factory.mktemp("partial"), Result()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIPELINE_DEVICE", "cpu")
        patch.setenv("PIPELINE_WORKERS", "1")
        patch.setenv("DVC_ROOT", str(folder))
        patch.chdir(folder)
        for part in ("pipeline", "dvc.yaml"):
            (folder / part).symlink_to(ROOT / part)
        put_blank_store(folder)
        write_data(Path("data/own"), found)
        write_params()
        run_stages(patch, found)
        yield found


def run_stages(patch: pytest.MonkeyPatch, found: Result) -> None:
    params = load_params()
    download.main(params)
    prepare.main(params)
    opened: list[str] = []
    open_store = Store.__init__

    def watched(self: Store, folder: Path, tasks: object) -> None:
        opened.append(folder.name)
        open_store(self, folder, tasks)

    patch.setattr(Store, "__init__", watched)
    test, away = paths.PREPARED / "test", Path("away")
    test.rename(away)
    for run in RUNS:
        opened.clear()
        with pytest.MonkeyPatch.context() as spy:
            found.seen[run] = record_steps(spy)
            train.main(params, run, 0)
        found.opened[f"train {run}"] = list(opened)
    away.rename(test)
    for run in RUNS:
        opened.clear()
        evaluate.main(params, run, 0)
        found.opened[f"evaluate {run}"] = list(opened)
    compare.main(params)
    report.main(params)


def record_steps(patch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """What each step takes: the number of every image, and by task whether it has a label."""
    steps: list[dict[str, np.ndarray]] = []

    class Watched(step.Step):
        def __call__(self, batch):
            step = {"image": batch.image[:, 0, 0, 0].numpy().astype(int) // 8}
            steps.append(step | {task: valid.flatten(1).any(1).numpy() for task, valid in batch.valid.items()})
            return super().__call__(batch)

    patch.setattr(step, "Step", Watched)
    return steps


def metrics(run: str) -> dict:
    return paths.read_json(paths.metrics_file(run, 0))


@pytest.mark.parametrize("run", RUNS)
def test_each_network_is_trained_on_the_images_that_have_a_label_of_its_tasks(result, run):
    taught, steps = result.taught(run), result.seen[run]
    assert 0 < len(taught) < COUNTS["train"] and (run != "pair" or len(taught) > len(result.taught("depth")))
    assert len(steps) == EPOCHS * (len(taught) // BATCH)
    assert {int(image) for step in steps for image in step["image"]} == taught
    for task in RUNS[run]["tasks"]:
        told = {(int(image), bool(has)) for step in steps for image, has in zip(step["image"], step[task], strict=True)}
        assert told == {(image, image in result.labelled("train", task)) for image in taught}
    assert metrics(run)["training_samples"] == len(taught)


def test_losses_stay_finite_and_fall(result):
    rows = list(csv.DictReader(paths.history_file("pair", 0).open()))
    for task in TASKS:
        losses = [float(row[f"loss/{task}"]) for row in rows]
        assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


@pytest.mark.parametrize("run", RUNS)
def test_counts_by_task_are_in_the_metrics_file(result, run):
    scored = metrics(run)
    assert scored["split"] == "test" and scored["samples"] == COUNTS["test"]
    assert scored["labelled"] == {
        split: {task: len(result.labelled(split, task)) for task in RUNS[run]["tasks"]} for split in ("train", "test")
    }
    for task in RUNS[run]["tasks"]:
        assert scored["tasks"][task]["images"] == len(result.labelled("test", task)) == 4


def test_a_test_split_is_scored_once_and_seen_by_nothing_else(result):
    for run in RUNS:
        assert result.opened[f"train {run}"].count("val") == 1 and "test" not in result.opened[f"train {run}"]
        assert result.opened[f"evaluate {run}"].count("test") == 1 and "val" not in result.opened[f"evaluate {run}"]
    for run in ("depth", "pair"):
        rmse = metrics(run)["tasks"]["depth"]["rmse"]
        watched = [float(row["depth/rmse"]) for row in csv.DictReader(paths.history_file(run, 0).open())]
        assert len(watched) == EPOCHS and max(watched) < 10 < FAR / 2 < rmse < FAR + 10


def test_gain_is_computed_and_says_that_the_numbers_of_images_differ(result):
    delta = paths.read_json(paths.DELTA_JSON)
    score = {run: {task: of for task, of in metrics(run)["tasks"].items()} for run in RUNS}
    miou = score["pair"]["semseg"]["mIoU"] / score["semseg"]["semseg"]["mIoU"] - 1
    rmse = 1 - score["pair"]["depth"]["rmse"] / score["depth"]["depth"]["rmse"]
    assert delta["delta_m"]["pair"]["mean"] == pytest.approx(100 * (miou + rmse) / 2)
    text = paths.REPORT.read_text()
    for task in TASKS:
        alone = len(result.labelled("train", task))
        told = f"pair against {task}: trained on {len(result.taught('pair'))} images "
        told += f"({alone} of the training split have a label of {task}) against {alone}"
        assert any(caveat.startswith(told) for caveat in delta["caveats"]) and told in text


def test_the_report_states_split_and_counts(result):
    text = paths.REPORT.read_text()
    assert "(24 train, 9 val, 6 test; digest" in text and "on the test split at the labels' own resolution" in text
    assert "| images with a label | train (of 24) | test (of 6) |" in text
    assert "| Depth | 16 | 4 |" in text
    shown = {path.stem for path in paths.FIGURES.glob("panel-*.png")}
    assert shown == {"panel-test-1", "panel-test-4"}


def test_another_split_evaluates_again_and_trains_nothing(result):
    params, info = load_params(), read_info()
    try:
        write_params(split="val")
        other = load_params()
        device = choose_device("float32", True, False, 1)
        of_training = [training_inputs(each, "pair", 0, info, device) for each in (params, other)]
        assert of_training[0].fingerprint == of_training[1].fingerprint
        of_evaluation = [_inputs(each, "pair", 0, info) for each in (params, other)]
        assert set(of_evaluation[0].differences(of_evaluation[1])) == {"param evaluation.split"}
        before = paths.metrics_file("pair", 0).read_text()
        evaluate.main(other, "pair", 0)
        scored = metrics("pair")
        assert scored["tasks"] == paths.read_json(paths.run_file("pair", 0))["last_validation"]
        assert scored["split"] == "val" and scored["tasks"]["depth"]["images"] == 6
        with pytest.raises(
            ComparisonError, match=r"depth-0.json is of split test, params.yaml says val; run `dvc repro"
        ):
            load_results(other)
        with pytest.raises(
            ComparisonError, match=r"pair-0.json is of split val, params.yaml says test; run `dvc repro"
        ):
            load_results(params)
    finally:
        write_params()
    paths.metrics_file("pair", 0).write_text(before)
    logged = mlflow.MlflowClient().get_run(find_result("pair", 0, scored["weights_sha256"]).id).data
    assert logged.metrics["depth/rmse"] == scored["tasks"]["depth"]["rmse"]
    assert logged.metrics["test/depth/rmse"] == metrics("pair")["tasks"]["depth"]["rmse"]
    assert logged.tags["scored_split"] == "val"


def test_a_split_that_is_not_there_is_refused_before_anything_is_trained(result):
    info = paths.read_json(paths.PREPARED / "dataset.json")
    without = info | {"splits": {split: count for split, count in info["splits"].items() if split != "test"}}
    paths.write_json(paths.PREPARED / "dataset.json", without)
    try:
        for stage in (train, evaluate):
            with pytest.raises(
                DataError, match=r"evaluation.split is test, but .* of partly .* only train, val: .*test"
            ):
                stage.main(load_params(), "pair", 0)
    finally:
        paths.write_json(paths.PREPARED / "dataset.json", info)


def test_a_held_out_tenth_has_a_label_of_each_task_or_is_refused(result, monkeypatch):
    """By hand: of the images with a label of either task, every 10th is kept out."""
    from pipeline.train.train_run import _stores

    run = load_params().run("pair")
    taught, watched = _stores(run, True)
    both = sorted(result.taught("pair"))
    assert watched.ids == [f"train-{i}" for i in both[9::10]] and len(taught) == len(both) - len(watched)
    index = paths.PREPARED / "train/index.json"
    before = index.read_text()
    changed = paths.read_json(index)
    for i in both[9::10]:
        changed["valid_pixels"]["depth"][i], changed["valid_pixels"]["semseg"][i] = 0, 5
    try:
        paths.write_json(index, changed)
        with pytest.raises(
            DataError, match=r"run pair: evaluation.select_on .* kept out has a label of depth; set it to"
        ):
            _stores(run, True)
        _stores(run, False)
        changed["valid_pixels"]["depth"] = [0] * COUNTS["train"]
        paths.write_json(index, changed)
        with pytest.raises(
            DataError, match=r"run pair: no training sample has a valid pixel for depth; raise data.limit"
        ):
            _stores(run, False)
    finally:
        index.write_text(before)
