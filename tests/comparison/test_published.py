"""Published rows: real tasks and metrics, and which of them, and of ours, are comparable, and why not the others."""

import pytest
import timm

from pipeline.comparison import published
from pipeline.comparison.published import SETTINGS, not_comparable_because, verdict
from pipeline.core.names import ARCHITECTURES, SINGLE_TASK
from pipeline.data.store import DatasetInfo
from pipeline.datasets import DATASETS
from pipeline.params.load import load_params
from pipeline.params.schema import Balancing

PROFILES = {"nyud": "profiles/nyud.yaml", "pascal_context": "profiles/pascal_context.yaml"}
JEONG = "Jeong & Yoon, CVPR 2024 (3 seeds)"
UNSTATED = "yes, but how it was trained is not stated"
OLD = "no: RMSE averaged over images, ASTMT's data"
ATRC = (
    "no: colours changed in training; input_size [425, 560] instead of [480, 640]; optimizer sgd instead of adam; "
    "lr 0.01 instead of 0.0001; epochs 400 instead of 100; augmentation.scale [0.5, 2] instead of [1, 1.2, 1.5]; "
    "augmentation.scale_mode range instead of choice; augmentation.crop random instead of center"
)
VERDICTS = {
    "nyud": {
        ("single task", f"{JEONG}, table 1"): UNSTATED,
        ("MTI-Net, edge auxiliary", f"{JEONG}, table 1"): UNSTATED,
        ("multi-task baseline", "authors of ATRC (5 seeds)"): ATRC,
        ("DeMT", "DeMT repository"): ATRC,
        ("single task", "MTI-Net repository"): OLD,
        ("multi-task baseline", "MTI-Net repository"): OLD,
        ("PAD-Net", "MTI-Net repository"): OLD,
        ("MTI-Net", "MTI-Net repository"): OLD,
        ("M2H", "M2H"): "no: backbone DINOv2 instead of HRNet-18",
    },
    "pascal_context": {
        ("single task", "MTI-Net repository"): "yes, but edge: another implementation of odsF",
        ("multi-task baseline", "MTI-Net repository"): "yes, but edge: another implementation of odsF",
        ("MTI-Net", "MTI-Net repository"): "yes, but edge: another implementation of odsF",
        ("single task", JEONG): UNSTATED,
        ("MTI-Net", JEONG): UNSTATED,
        ("PRISM", "PRISM"): "no: backbone ViT-L instead of HRNet-18",
    },
}
NONE_SUCH = "yes, but no such row is of this network and these tasks"
OURS = {
    "nyud": {
        "multi_task": NONE_SUCH,  # the row of three tasks has another recipe, that of two another metric
        "sequential_attention": NONE_SUCH,
        "mti_net": f"yes: as MTI-Net, edge auxiliary of {JEONG}, table 1",
        "multi_task_all": NONE_SUCH,
        "sequential_attention_all": NONE_SUCH,
    },
    "pascal_context": {
        "multi_task": "yes: as multi-task baseline of MTI-Net repository",
        "mti_net": "yes: as MTI-Net of MTI-Net repository",
        "sequential_attention": NONE_SUCH,
        "sequential_attention_pair": NONE_SUCH,
        "sequential_attention_trio": NONE_SUCH,
    },
}


def info(dataset: str, published: bool = True) -> DatasetInfo:
    return DatasetInfo(dataset, (), {}, 0.011, {"train": 3, "val": 2}, "", published=published)


@pytest.fixture(params=PROFILES)
def profile(request, root):
    return request.param, load_params(root / PROFILES[request.param])


@pytest.mark.parametrize("dataset", SETTINGS)
def test_rows_are_of_the_dataset_s_tasks_and_say_where_they_come_from(dataset):
    for row in SETTINGS[dataset].rows:
        assert {*row.scores, *row.auxiliary_tasks} <= set(DATASETS[dataset].tasks) and row.source
        assert row.architecture is None or row.architecture in ARCHITECTURES
        assert all(0 < value < 100 for value in row.scores.values())


@pytest.mark.parametrize("dataset", SETTINGS)
def test_every_row_says_whether_it_is_comparable_and_why_not(dataset):
    setting = SETTINGS[dataset]
    verdicts = {(row.method, row.source): row.verdict(setting) for row in setting.rows}
    if setting.network:  # the balancing literature: rows of a network that is none of ours
        assert len(verdicts) == 13
        begin = "no: another network; epochs on the val split averaged; "
        assert all(text.startswith(begin) for text in verdicts.values())
    else:
        assert verdicts == VERDICTS[dataset]


def test_every_run_of_the_profile_is_by_the_published_recipe(profile):
    dataset, params = profile
    runs = {name: params.run(name) for name in params.runs}
    single = [run for run in runs.values() if run.architecture == SINGLE_TASK]
    assert {run.tasks for run in single} == {(task,) for task in DATASETS[dataset].tasks}
    for run in runs.values():
        assert not list(not_comparable_because(run, params.evaluation, info(dataset)))
    several = {name: run for name, run in runs.items() if run not in single}
    assert {name: verdict([run], params.evaluation, info(dataset)) for name, run in several.items()} == OURS[dataset]
    alone = verdict(single, params.evaluation, info(dataset))
    assert alone.startswith("yes: as single task of ") and JEONG in alone


def reasons(params, name, chosen=None, **training):
    run = params.run(name)
    run = run.model_copy(update={"training": run.training.model_copy(update=training)})
    return list(not_comparable_because(run, chosen or params.evaluation, info(params.data.dataset)))


def test_every_deviation_is_named(root):
    params = load_params(root / PROFILES["nyud"])
    balancing = Balancing.model_validate({"method": "cagrad", "c": 0.4})
    run = params.run("multi_task").model_copy(update={"options": {"head": "aspp"}, "balancing": balancing})
    turned = run.training.augmentation.model_copy(update={"rotation": 5.0})
    changes = {"backbone": "resnet18", "pretrained": False, "input_size": (96, 128), "epochs": 1}
    changes["augmentation"] = turned
    run = run.model_copy(update={"training": run.training.model_copy(update=changes)})
    chosen = params.evaluation.model_copy(update={"select_on": "train_holdout"})
    assert list(not_comparable_because(run, chosen, info("nyud", published=False))) == [
        "not the whole published dataset, but 3 train, 2 val samples",
        "backbone resnet18 instead of hrnet_w18_small_v2",
        "random initialisation instead of ImageNet weights",
        "input_size [96, 128] instead of [480, 640]",
        "epochs 1 instead of 100",
        "augmentation.rotation 5 instead of 0",
        "head aspp instead of multi_scale",
        "balanced by cagrad (c 0.4), not by fixed weights",
        "a tenth of the training split was kept out to choose the epoch",
    ]


@pytest.mark.parametrize(
    ("backbone", "pretrained", "told"),
    [
        ("hrnet_w18_small_v2.ms_in1k", True, []),
        ("hrnet_w18_small_v2.gluon_in1k", True, ["ImageNet weights gluon_in1k instead of ms_in1k"]),
        ("hrnet_w18_small_v2", True, ["gluon_in1k, which timm takes for a name without a tag, instead of ms_in1k"]),
        ("hrnet_w18_small_v2.ms_in1k", "own.pth", ["weights of a file (own.pth), whose origin is not known"]),
        ("hrnet_w18_small_v2.ms_in1k", False, ["random initialisation"]),
        ("hrnet_w18.ms_aug_in1k", True, ["backbone hrnet_w18 instead of hrnet_w18_small_v2"]),
    ],
)
def test_the_imagenet_weights_are_told_apart(profile, backbone, pretrained, told):
    _, params = profile
    for name in params.runs:
        found = reasons(params, name, backbone=backbone, pretrained=pretrained)
        assert len(found) == len(told) and all(text in reason for text, reason in zip(told, found, strict=True))


def test_timm_s_tags_are_those_that_we_name():
    name = published.HRNET18
    assert timm.get_pretrained_cfg(name).tag == published.DEFAULT_TAG
    assert timm.is_model_pretrained(f"{name}.{published.IMAGENET}")
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.get_pretrained_cfg(f"{name}.another_in1k", allow_unregistered=False)


@pytest.mark.parametrize(
    ("dataset", "run", "changes", "told"),
    [
        (
            "pascal_context",
            "multi_task",
            {"optimizer": "sgd", "lr": 1e-2, "epochs": 60},
            ["optimizer sgd instead of adam", "lr 0.01 instead of 0.0001", "epochs 60 instead of 100"],
        ),
        (
            "pascal_context",
            "semseg",
            {"optimizer": "adam", "lr": 1e-4},
            ["optimizer adam instead of sgd", "lr 0.0001 instead of 0.01"],
        ),
        ("pascal_context", "semseg", {"epochs": 61}, ["epochs 61 instead of 60"]),
        ("pascal_context", "sequential_attention_trio", {"batch_size": 16}, ["batch_size 16 instead of 8"]),
        ("pascal_context", "sequential_attention_pair", {"batch_size": 8}, ["batch_size 8 instead of 16"]),
        ("nyud", "multi_task", {"batch_size": 10}, ["batch_size 10 instead of 8"]),
        ("nyud", "multi_task", {"epochs": 400}, ["epochs 400 instead of 100"]),
        (
            "nyud",
            "multi_task",
            {"task_weights": {"semseg": 1.44, "depth": 1.15}},
            ["task_weights.semseg 1.44 instead of 1", "task_weights.depth 1.15 instead of 1"],
        ),
        ("nyud", "sequential_attention", {"task_weights": {"semseg": 1.44, "depth": 1.15, "edge": 9.0}}, []),
        ("nyud", "semseg", {"task_weights": {"semseg": 1.44}}, []),
    ],
)
def test_another_recipe_than_the_published_one_is_named(root, dataset, run, changes, told):
    assert reasons(load_params(root / PROFILES[dataset]), run, **changes) == told
