"""What a GPU must do as the CPU does it, or as it did it the last time. Skipped where there is none."""

import itertools
import os
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.balancing.base import random_stream
from pipeline.compute.device import choose_device
from pipeline.core.errors import TrainingError
from pipeline.data.store import Store
from pipeline.evaluation.scoring import score
from pipeline.loading.in_memory import training_batches
from pipeline.networks.registry import ARCHITECTURES, build
from pipeline.params.load import parse_params
from pipeline.tasks import TASKS
from pipeline.train.step import make_step
from pipeline.train.train_run import make_augmenter
from tests.compute.test_distributed import Normed, learn, together
from tests.evaluation.test_scoring import ALL, INFO, RECIPE, Pointwise, evaluation_store
from tests.support.networks import predictions
from tests.support.tiny_training import Tiny, make_store, params, run_training
from tests.tasks.test_losses import batch
from tests.train.test_resume import AUGMENTATION, Killed, Training, same

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def make(name, backbone):
    tasks = {"semseg": 5} if name == "single_task" else {"semseg": 5, "depth": 1}
    return build(name, backbone=backbone, tasks=tasks)


def step_of(network, image):
    """Predictions in training mode and the gradients of their mean square, all on the CPU."""
    network.zero_grad(set_to_none=True)
    made = predictions(network(image))
    sum(x.square().mean() for x in made).backward()
    gradients = {name: each.grad.cpu().clone() for name, each in network.named_parameters() if each.grad is not None}
    return [x.detach().cpu().clone() for x in made], gradients


def distance(found, expected):
    """||found - expected|| / ||expected||, over all tensors together."""
    pairs = list(zip(found, expected, strict=True))
    apart = sum((a - b).double().square().sum() for a, b in pairs)
    return float((apart / sum(b.double().square().sum() for _, b in pairs)).sqrt())


def step_on_both(network, image, compiles=False):
    """The distances of a step's predictions and gradients on the GPU from those on the CPU."""
    device = choose_device("float32", True)
    expected, slopes = step_of(network, image)
    device.network(network)
    image = image.to(CUDA).contiguous(memory_format=device.memory_format)
    found, gradients = step_of(torch.compile(network, dynamic=False) if compiles else network, image)
    names = [each.removeprefix("_orig_mod.") for each in gradients]
    assert set(names) == set(slopes)
    return distance(found, expected), distance(gradients.values(), [slopes[each] for each in names])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_is_that_of_the_cpu(name):
    """In double precision: in float32 a network of this depth makes much of the last bits of its input."""
    torch.manual_seed(0)
    network = make(name, "hrnet_w18_small").double().train()
    assert max(step_on_both(network, torch.randn(4, 3, 64, 96).double())) < 1e-7


@pytest.mark.parametrize("name", ["multi_task", "sequential_attention"])
def test_a_compiled_step_is_that_of_the_cpu(name):
    torch.manual_seed(0)
    network = make(name, "resnet18").train()
    predicted, slopes = step_on_both(network, torch.randn(4, 3, 64, 96), compiles=True)
    assert predicted < 1e-3 and slopes < 1e-2


@pytest.mark.parametrize("chunk", [2**26, 1], ids=["images together", "one by one"])
@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_losses_are_those_of_the_cpu(monkeypatch, name, resized, chunk):
    monkeypatch.setattr("pipeline.tasks.losses._GPU_CHUNK", chunk)
    prediction, target, valid = batch(TASKS[name], size=(5, 24, 32))
    prediction = prediction[..., ::4, ::4].contiguous() if resized else prediction

    def of(device):
        leaf = prediction.to(device).contiguous(memory_format=torch.channels_last).requires_grad_()
        loss = TASKS[name].loss(leaf, target.to(device), valid.to(device))
        loss.backward()
        return loss.detach().cpu(), leaf.grad.cpu()

    assert_close(of(CUDA), of(torch.device("cpu")), rtol=1e-4, atol=1e-6)


def test_scores_are_those_of_the_cpu(tmp_path, monkeypatch):
    evaluation_store(tmp_path)
    store = Store(tmp_path, ALL)
    there = choose_device("float32", True)
    found = score(there.network(Pointwise()), store, ALL, INFO, RECIPE, 2, there)
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    expected = score(Pointwise(), store, ALL, INFO, RECIPE, 2, choose_device("float32", True))
    for task, scores in expected.items():
        assert found[task] == pytest.approx(scores, rel=1e-4, abs=0.02), task  # a pixel on the edge may change sides


@pytest.mark.parametrize("memory", [1 << 30, 1000], ids=["split kept in memory", "split read from disk"])
def test_killed_it_goes_on_to_the_same_bits(in_tmp, monkeypatch, memory):
    """With dropout and a random augmentation, so that every random stream counts."""
    monkeypatch.setattr("pipeline.loading.in_memory.free_memory", lambda device: memory)
    training = Training(in_tmp / "data", samples=9, batch_size=3, epochs=2, deterministic=True)
    whole = training.go("undisturbed")
    assert same(training.go("once more"), whole)
    for step in (2, 5):
        with pytest.raises(Killed):
            training.go(f"step {step}", kill_at_step=step)
        again = training.go(f"step {step}")
        assert again[3] == 6 - (step - 1) and same(again, whole)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_stream_of_balancing_leaves_those_of_both_devices_alone(device):
    before = torch.get_rng_state(), torch.cuda.get_rng_state(CUDA)
    with random_stream(0, 1, CUDA if device == "cuda" else torch.device("cpu")):
        drawn = [torch.rand(3, device=CUDA if device == "cuda" else "cpu") for _ in range(2)]
        assert not torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(torch.cuda.get_rng_state(CUDA), before[1])


CAPTURED = [
    {},
    {"accumulate": 2, "clip_norm": 0.1},
    {"optimizer": "sgd"},
    *({"balancing": method} for method in ("uw", "rlw", "dwa", "stch", "famo", "cagrad", "graddrop", "gradnorm")),
    {"balancing": "modo", "accumulate": 2},
]


@pytest.mark.parametrize("recipe", CAPTURED, ids=str)
def test_a_captured_step_is_the_same_to_the_bit(in_tmp, recipe):
    """Its random numbers included. Three steps come before the capture, and validations between."""
    recipe = recipe | {"samples": 12, "epochs": 3, "deterministic": True}
    captured = Training(in_tmp / "captured", cuda_graph=True, **recipe).go("captured")
    plain = Training(in_tmp / "plain", cuda_graph=False, **recipe).go("plain")
    assert captured[3] == 9 and same(captured, plain)


class Waits(Tiny):
    def forward(self, image):
        return super().forward(image * image.mean().item())


def test_a_network_that_waits_is_told_not_to_be_captured(in_tmp):
    store = make_store(in_tmp / "data")
    with pytest.raises(TrainingError, match=r"in a CUDA graph: .*training.cuda_graph to false in params\.yaml"):
        run_training(store, params(), network=Waits())
    run_training(store, params(cuda_graph=False), network=Waits())


@pytest.mark.parametrize("graph", [True, False], ids=["captured", "step by step"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_host_never_waits_for_a_step(in_tmp, name, graph):
    """From the batch to the update, augmentation and every loss included."""
    tasks = {task: INFO.channels(task, TASKS[task].channels) for task in ("semseg", "depth", "normals", "edge")}
    tasks = {"semseg": tasks["semseg"]} if name == "single_task" else tasks
    entry = {"architecture": name, "tasks": list(tasks)}
    light = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5}
    run = parse_params(
        {
            "experiment": "test", "data": {"dataset": "rooms", "tasks": list(ALL)}, "seeds": [0], "runs": {"it": entry},
            "training": {
                "backbone": "hrnet_w18_small", "input_size": (64, 64), "batch_size": 2, "epochs": 1, "lr": 0.1,
                "augmentation": AUGMENTATION | light, "clip_norm": 1.0, "cuda_graph": graph,
            },
        }
    ).run("it")  # fmt: skip
    evaluation_store(in_tmp)
    device, augmenter = choose_device("auto", True), make_augmenter(run)
    batches = training_batches(Store(in_tmp, list(tasks)), (64, 64), 2, 0, device.torch_device)
    network = device.network(build(name, backbone=run.training.backbone, tasks=tasks)).train()
    step, rng = make_step(network, run, device, 0), np.random.default_rng(0)
    try:
        for epoch in range(4):
            for batch in batches.epoch(epoch):
                step(augmenter(batch.to(device.torch_device), augmenter.draw(2, rng)))
                if epoch == 2:  # two steps an epoch: the first four make constants and capture
                    torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_can_be_deterministic(name):
    """Two runs of a bfloat16 step give the same bits, and no operation refuses."""
    device = choose_device("auto", True, deterministic=True)
    image = torch.randn(4, 3, 64, 96).to(CUDA).contiguous(memory_format=device.memory_format)

    def once():
        torch.manual_seed(0)
        network = device.network(make(name, "hrnet_w18_small")).train()
        with device.autocast():
            return step_of(network, image)

    (first, slopes), (second, again) = once(), once()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(slopes[each], again[each]) for each in slopes)


def test_kept_in_memory_or_read_ahead_the_batches_are_the_same(in_tmp, monkeypatch):
    store, run = make_store(in_tmp / "data"), params(deterministic=True)
    losses = []
    for memory in (1 << 30, 1000):
        monkeypatch.setattr("pipeline.loading.in_memory.free_memory", lambda device, memory=memory: memory)
        losses.append([values for _, values in run_training(store, run)[2]])
    assert losses[0] == losses[1]


def learn_on_the_gpu(folder):
    os.environ["PIPELINE_DEVICE"] = "cuda:0"  # for both
    return learn(folder)


def test_two_processes_at_one_gpu_train_as_one(tmp_path):
    """By gloo: NCCL refuses to have two at one GPU."""
    make_store(tmp_path / "train", 16, holes=True)
    alone = learn(tmp_path)
    first, second = together(learn_on_the_gpu, tmp_path)
    for name, (lines, weights) in alone.items():
        for (_, own), (_, other) in zip(lines, first[name][0], strict=True):
            assert other == pytest.approx(own, abs=1e-4), name
        for key, tensor in weights.items():
            assert_close(first[name][1][key], tensor, rtol=1e-3, atol=1e-3)
            assert torch.equal(first[name][1][key], second[name][1][key]), "processes never drift apart"


def test_nccl_carries_gradients_and_statistics(in_tmp, monkeypatch):
    """One process takes the way of several: DistributedDataParallel and torch's shared batch norm, by NCCL."""
    store, run = make_store(in_tmp / "data", 16), params(batch_size=8, cuda_graph=False)
    torch.manual_seed(0)
    network, _, alone = run_training(store, run, network=Normed())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("WORLD_SIZE", 1), ("RANK", 0), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl")
    try:
        counts = itertools.chain([2], itertools.repeat(1))  # "is there another?", then the factor of each gradient
        monkeypatch.setattr("pipeline.train.step.distributed", SimpleNamespace(world_size=lambda: next(counts)))
        torch.manual_seed(0)
        shared, _, logged = run_training(store, run, network=Normed())
    finally:
        torch.distributed.destroy_process_group()
    assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in shared.modules())
    for (_, own), (_, other) in zip(alone, logged, strict=True):
        assert other == pytest.approx(own, abs=1e-4)
    for name, tensor in network.state_dict().items():
        assert_close(shared.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)
