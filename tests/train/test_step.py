"""One optimiser step: parts of a batch, the gradient's norm, torch.compile, fused optimisers, determinism."""

import os

import pytest
import torch

from pipeline.compute.device import NORMALIZATIONS, Device, choose_device
from pipeline.core.errors import ParamsError, TrainingError
from pipeline.loading.loader import TrainingBatches
from pipeline.train.step import make_optimizer, make_step
from tests.support.tiny_training import SIZE, Tiny, make_store, params, run_training

CPU = choose_device("float32", True)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_parts_of_a_batch_make_the_same_step(store):
    """Without batch norm and with a label in every pixel the two are the same; batches then are 8 images."""
    whole, history, _ = run_training(store, params(batch_size=8))
    parts, again, _ = run_training(store, params(batch_size=8, accumulate=4))
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-5)
    assert again[-1].losses == pytest.approx(history[-1].losses, abs=1e-5)


def test_each_part_is_a_masked_mean_of_its_own(store, monkeypatch):
    """By hand: the first half of the batch has one valid pixel, and weighs as much as the second."""
    batch = next(TrainingBatches(store, SIZE, 4, 0, on_gpu=False).epoch(0))
    batch.valid["depth"][:2] = False
    batch.valid["depth"][0, 0, 3, 5] = True
    network = Tiny()
    predicted = network(CPU.image(batch.image.clone(), _Unchanged())).final["depth"]
    error = (predicted.detach() - batch.value["depth"]).abs()
    run = params(accumulate=2, deep_supervision=False, normalization="half")
    monkeypatch.setitem(NORMALIZATIONS, "half", _Unchanged())
    step = make_step(network, run, CPU, 0)
    assert step(batch)["loss/depth"] == pytest.approx(float(error[0, 0, 3, 5] + error[2:].mean()) / 2, rel=1e-5)


class _Unchanged:
    def __call__(self, image):
        return image / 255


def test_a_split_too_small_for_equal_parts_is_told(store):
    with pytest.raises(TrainingError, match=r"10 images \(there are only 10 .* equally over training.accumulate 4 x 1"):
        run_training(store, params(batch_size=16, accumulate=4))


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_the_gradient_is_cut_to_its_norm(store, limit):
    """A step of plain SGD is as long as lr times the gradient."""
    batch = next(TrainingBatches(store, SIZE, 4, 0, on_gpu=False).epoch(0))
    moved = {}
    for clip in (None, limit):
        torch.manual_seed(0)
        network, run = Tiny(), params(optimizer="sgd", momentum=0.0, lr=1.0, clip_norm=clip)
        before = weights(network)
        make_step(network, run, CPU, 0)(batch)
        moved[clip] = weights(network) - before
    length = min(limit, float(moved[None].norm()))
    assert float(moved[limit].norm()) == pytest.approx(length, rel=1e-2)
    assert torch.cosine_similarity(moved[limit], moved[None], dim=0) > 0.99


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_under_the_same_names(store, monkeypatch):
    """Traced, with forward and backward as graphs; they are run as they are, since compiling C++ takes 20 s."""
    graphs = []

    def count(network, **options):
        graphs.append(options)
        return compile(network, backend="aot_eager", **options)

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", count)
    eager, _, _ = run_training(store, params(epochs=2))
    compiled, _, _ = run_training(store, params(epochs=2, compile=True))
    assert graphs == [{"dynamic": False}]
    assert list(compiled.state_dict()) == list(eager.state_dict())
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=0, atol=1e-4)


def test_steps_are_captured_on_one_gpu_alone(monkeypatch):
    cuda = Device(torch.device("cuda"), torch.bfloat16, True)
    assert [device.uses_cuda_graph(wanted) for wanted in ("auto", True, False) for device in (CPU, cuda)] == [
        False, True, False, True, False, False
    ]  # fmt: skip
    monkeypatch.setattr("pipeline.compute.distributed.world_size", lambda: 2)
    assert not cuda.uses_cuda_graph("auto") and not cuda.uses_cuda_graph(False)
    with pytest.raises(ParamsError, match="cuda_graph: true is for one process; got 2: set it to auto or false"):
        cuda.uses_cuda_graph(True)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_fused_optimizer_makes_the_plain_ones_steps(name):
    """Weights in channels-last memory, since a fused form walks through memory as it lies."""
    ends = []
    for fused in (True, False):
        torch.manual_seed(0)
        network = CPU.network(Tiny())
        optimizer = make_optimizer(network, params(optimizer=name, lr=1e-3, weight_decay=0.1).training, CPU)
        assert optimizer.defaults["fused"]
        optimizer.param_groups[0]["fused"] = fused
        for _ in range(5):
            network(torch.rand(2, 3, 8, 8)).final["depth"].square().mean().backward()
            optimizer.step()
        ends.append(weights(network))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_determinism_is_switched_on_and_off(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    choose_device("auto", True, deterministic=True)
    on = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    assert on == (True, True) and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    choose_device("auto", True)
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
