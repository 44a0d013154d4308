"""Networks that start from trained single-task networks: which ones, and that it is these and no others."""

import pytest
import torch

from pipeline.core import paths
from pipeline.core.errors import DataError, ParamsError
from pipeline.core.integrity import file_sha256
from pipeline.networks.registry import build
from pipeline.networks.saved_weights import load_single_task_weights, save_weights
from pipeline.params.load import parse_params
from pipeline.params.single_task_weights import write_start

BACKBONE = "mobilenetv3_small_050"
TASKS = {"semseg": 5, "depth": 1, "edge": 1}
SEED = 3
FILE = paths.start_file("fused", SEED)


@pytest.fixture
def params():
    single = {task: {"architecture": "single_task", "tasks": [task]} for task in TASKS}
    other = {"architecture": "single_task", "tasks": ["depth"], "training": {"backbone": "resnet18"}}
    fused = {"architecture": "cross_stitch", "tasks": ["semseg", "depth"], "auxiliary_tasks": ["edge"]}
    return parse_params(
        {
            "data": {"dataset": "rooms", "tasks": list(TASKS)},
            "training": {"backbone": BACKBONE, "input_size": [32, 64], "batch_size": 4, "epochs": 1, "lr": 0.1},
            "seeds": [SEED],
            "runs": {"wide": other, **{f"{task}-alone": run for task, run in single.items()}},
            "runs_from_single_task": {"fused": fused},
        }
    )


@pytest.fixture
def trained(params, in_tmp):
    """What training leaves: weights and digests of every single-task run."""
    networks = {}
    for name in params.runs:
        run = params.run(name)
        (task,) = run.tasks
        networks[name] = build("single_task", backbone=run.training.backbone, tasks={task: TASKS[task]})
        path = paths.weights_file(name, SEED)
        save_weights(networks[name], path)
        paths.write_json(paths.digest_file(name, SEED), {"sha256": file_sha256(path)})
    return networks


def fused_network():
    main = {task: TASKS[task] for task in ("semseg", "depth")}
    return build("cross_stitch", backbone=BACKBONE, tasks=main, auxiliary_tasks={"edge": 1})


def test_every_task_starts_from_its_own_network(params, trained):
    write_start(params, "fused", SEED)
    start = paths.read_json(FILE)
    assert {task: source["run"] for task, source in start.items()} == {task: f"{task}-alone" for task in TASKS}
    network = fused_network()
    load_single_task_weights(network, start, SEED, FILE)
    for task in TASKS:
        single = trained[f"{task}-alone"].state_dict()
        for part, own in (("backbone", network.backbones[task]), ("head", network.heads[task])):
            for name, value in own.state_dict().items():
                assert torch.equal(value, single[f"{part}.{name}"])
    assert network.backbone.load_report == "a trained single-task network"


@pytest.mark.slow
def test_other_weights_than_those_named_are_refused(params, trained):
    write_start(params, "fused", SEED)
    start = paths.read_json(FILE)
    path = paths.weights_file("depth-alone", SEED)
    save_weights(build("single_task", backbone=BACKBONE, tasks={"depth": 1}), path)
    with pytest.raises(DataError, match=f"{path} is damaged, or not the file that {FILE} describes"):
        load_single_task_weights(fused_network(), start, SEED, FILE)
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is missing; run `dvc repro`"):
        load_single_task_weights(fused_network(), start, SEED, FILE)
    save_weights(trained["wide"], path)
    start["depth"]["sha256"] = file_sha256(path)
    with pytest.raises(DataError, match=f"{path} can't be what depth starts from: .* do not fit"):
        load_single_task_weights(fused_network(), start, SEED, FILE)


def test_a_network_that_is_not_trained_yet_and_a_run_that_starts_afresh(params, trained):
    paths.digest_file("edge-alone", SEED).unlink()
    with pytest.raises(DataError, match=f"edge-alone-{SEED}.json is missing; run `dvc repro`"):
        write_start(params, "fused", SEED)
    with pytest.raises(ParamsError, match="unknown run 'wide'; Allowed: fused"):
        write_start(params, "wide", SEED)
