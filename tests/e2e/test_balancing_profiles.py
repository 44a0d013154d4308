"""The profiles of the balancing literature's data sets, stage by stage, on small archives in their exact layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.comparison import published
from pipeline.data.store import Store
from pipeline.datasets import DATASETS
from pipeline.params.load import load_params
from tests.support.numbered_archive import frame, numbered_files, write_zip
from tests.support.whole_profile import run_profile

pytestmark = pytest.mark.e2e

NAMES = {"nyuv2_288": "nyuv2.zip", "cityscapes_128": "cityscapes2.zip"}
VAL = 2


def small(root: Path, dataset: str) -> dict:
    """The profile with nothing changed but what makes it small: backbone, sizes, epochs, and the archive's counts."""
    params = yaml.safe_load((root / f"profiles/{dataset}.yaml").read_text())
    params["data"]["archive"] = NAMES[dataset]
    params["training"] |= {"backbone": "test_resnet", "pretrained": False, "epochs": 1, "batch_size": 2}  # narrow
    params["training"]["input_size"] = [96, 128]
    return params


@pytest.fixture(scope="module", params=NAMES)
def done(request, tmp_path_factory, root):
    """The folder where every stage has run."""
    dataset = request.param
    folder = tmp_path_factory.mktemp(dataset)
    write_zip(numbered_files(dataset), folder / NAMES[dataset])
    params = small(root, dataset)
    run_profile(root, folder, params)
    return dataset, folder, params


def test_every_run_is_scored_on_all_its_tasks(done):
    dataset, folder, params = done
    assert set(params["runs"]["multi_task"]["tasks"]) == set(DATASETS[dataset].tasks)
    for name, run in params["runs"].items():
        scored = json.loads((folder / f"reports/metrics/{name}-0.json").read_text())
        assert set(scored["tasks"]) == set(run["tasks"]) and scored["samples"] == VAL
        for task in run["tasks"]:
            primary_metric = scored["tasks"][task][scored["primary_metric"][task]["metric"]]
            assert primary_metric is not None and np.isfinite(primary_metric), (name, task)
    delta = json.loads((folder / "reports/delta.json").read_text())
    assert np.isfinite(delta["delta_m"]["multi_task"]["mean"])


def test_pixels_without_a_label_are_not_scored(done):
    dataset, folder, _ = done
    scored = json.loads((folder / "reports/metrics/multi_task-0.json").read_text())["tasks"]
    written = [frame(dataset, 100 + i) for i in range(VAL)]
    assert scored["semseg"]["valid_pixels"] == sum((each["label"] >= 0).sum() for each in written)
    depth = "disparity" if dataset == "cityscapes_128" else "depth"
    assert scored[depth]["valid_pixels"] == sum((each["depth"] > 0).sum() for each in written)
    store = Store(folder / "data/prepared/val", [depth])
    np.testing.assert_array_equal(store.label(depth, 0).value, written[0]["depth"][..., 0])


def test_the_report_sets_published_rows_beside_ours_and_calls_none_comparable(done):
    dataset, folder, _ = done
    report = (folder / "reports/report.md").read_text()
    section = report.partition("## Published results")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if "MTAN's SegNet" in line and "IMGrad paper" in line]
    assert len(rows) == len(published.SETTINGS[dataset].rows) == 13
    assert all("| no: another network" in row for row in rows)
    ours = [line for line in section.splitlines() if "this report" in line]
    assert len(ours) == 2 and all(
        "no: not the whole published dataset, but 4 train, 2 val samples" in row for row in ours
    )
    if dataset == "cityscapes_128":
        assert "Disparity abs_err ↓" in section and "[m]" not in report and "in metres" not in report
        assert "0.013 |" in section  # Nash-MTL's 0.0129
    else:
        assert "Depth rmse [m] ↓" in section and "no RMSE, absolute error 0.53 m" in section


@pytest.mark.parametrize("dataset", NAMES)
def test_the_profile_is_libmtl_s_recipe(root, dataset):
    params = load_params(root / f"profiles/{dataset}.yaml")
    recipe = params.training
    assert (recipe.backbone, recipe.pretrained, recipe.output_stride) == ("resnet50.tv_in1k", True, 8)
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.epochs) == ("adam", 1e-4, 1e-5, 200)
    assert (recipe.schedule, recipe.step_epochs, recipe.step_factor) == ("step", 100, 0.5)
    assert {recipe.task_weights[task] for task in params.data.tasks} == {1.0} and recipe.normalization == "none"
    assert all(run.options == {"head": "aspp"} for run in params.runs.values())
    assert recipe.input_size == ((288, 384) if dataset == "nyuv2_288" else (128, 256))
    aug = recipe.augmentation
    assert (aug.flip, aug.scale, aug.crop) == (
        (0.5, (1.0, 1.2, 1.5), "random") if dataset == "nyuv2_288" else (0.0, (1.0,), "center")
    )
    assert recipe.batch_size == (8 if dataset == "nyuv2_288" else 64)
