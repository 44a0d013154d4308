"""Published rows: real tasks and metrics, and the profiles in the very setting that they are compared in."""

import pytest

from pipeline.datasets import DATASETS
from pipeline.datasets.store import DatasetInfo
from pipeline.names import SINGLE_TASK
from pipeline.params import load_params
from pipeline.published import SETTINGS, obstacles

PROFILES = {"nyud": "profiles/nyud.yaml", "pascal_context": "profiles/pascal_context.yaml"}


def info(dataset: str, published: bool = True) -> DatasetInfo:
    return DatasetInfo(dataset, (), {}, 0.011, {"train": 3, "val": 2}, "", published=published)


@pytest.mark.parametrize("dataset", SETTINGS)
def test_rows_are_of_the_dataset_s_tasks_and_say_where_they_come_from(dataset):
    for row in SETTINGS[dataset].rows:
        assert set(row.scores) <= set(DATASETS[dataset].tasks) and row.source
        assert all(0 < value < 100 for value in row.scores.values())


@pytest.mark.parametrize("dataset", PROFILES)
def test_the_profile_is_the_published_setting(dataset, root):
    params = load_params(root / PROFILES[dataset])
    single = {run.tasks for run in params.runs.values() if run.architecture == SINGLE_TASK}
    assert single == {(task,) for task in DATASETS[dataset].tasks}
    assert {run.architecture for run in params.runs.values()} == {SINGLE_TASK, "multi_task", "sequential_attention"}
    for name in params.runs:
        assert not list(obstacles(params.run(name).training, params.evaluation, info(dataset)))


def test_every_deviation_is_named(root):
    params = load_params(root / PROFILES["nyud"])
    quick = params.training.model_copy(
        update={"backbone": "resnet18", "pretrained": False, "input_size": (96, 128), "epochs": 1}
    )
    chosen = params.evaluation.model_copy(update={"select_on": "train_holdout"})
    told = list(obstacles(quick, chosen, info("nyud", published=False)))
    for word in ("3 train, 2 val", "resnet18", "random init", "96x128", "1 epochs", "kept out"):
        assert sum(word in reason for reason in told) == 1
    assert len(told) == 6


def test_relative_gains_of_a_source_agree_with_its_delta():
    """The rows that came with a Δm, recomputed from the same table's baselines (rounded to the printed digits)."""
    rows = {row.method: row for row in SETTINGS["nyud"].rows if row.source.startswith("Jeong")}
    base, ours = rows["single task"].scores, rows["MTI-Net, edge auxiliary"].scores
    gains = [(ours["semseg"] / base["semseg"] - 1), *(1 - ours[task] / base[task] for task in ("depth", "normals"))]
    assert 100 * sum(gains) / 3 == pytest.approx(rows["MTI-Net, edge auxiliary"].delta_m, abs=0.05)
