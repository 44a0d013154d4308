"""The loop: recipe, losses, reproducibility, and what happens when a loss is no longer a number."""

import pytest
import torch
from torch import nn

from pipeline.compute.device import choose_device
from pipeline.core.errors import ParamsError, TrainingError
from pipeline.loading.in_memory import ResidentBatches, training_batches
from pipeline.loading.loader import Batch, TrainingBatches
from pipeline.tasks import get_task
from pipeline.train.loop import learning_rate
from pipeline.train.step import by_task, make_optimizer, task_losses
from tests.support.tiny_training import SIZE, Tiny, make_store, params, run_training


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


def test_loss_goes_down_and_every_step_is_logged(store):
    _, history, logged = run_training(store, params(epochs=40, deep_supervision=False))
    assert len(history) == 40
    assert history[-1].losses["loss/semseg"] < 0.8 * history[0].losses["loss/semseg"]
    assert history[-1].losses["loss/depth"] < 0.8 * history[0].losses["loss/depth"]
    steps = [step for step, values in logged if "learning_rate" in values]
    assert steps == [2 * (epoch + 1) for epoch in range(40)]  # 10 samples in batches of 4: the rest is dropped


def test_same_seed_same_weights_bit_for_bit(store):
    run = params(augmentation={"flip": 0.5, "scale": [0.8, 1.2], "scale_mode": "range", "rotation": 10})
    first, again, other = (run_training(store, run, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_an_epoch_shows_each_sample_once_in_an_order_of_its_own(store):
    def order(epoch: int, seed: int = 3) -> torch.Tensor:
        batches = TrainingBatches(store, SIZE, 5, seed, on_gpu=False)
        return torch.cat([batch.image for batch in batches.epoch(epoch)])

    orders = [order(0), order(1), order(0), order(0, seed=4)]
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[3]), "a seed has orders of its own"
    assert len(torch.unique(orders[0].flatten(1), dim=0)) == 10


def test_batches_out_of_memory_are_those_from_disk(store, monkeypatch):
    device = torch.device("cpu")
    resident = training_batches(store, (24, 16), 3, 7, device)
    monkeypatch.setattr("pipeline.loading.in_memory.free_memory", lambda device: 1000)
    streamed = training_batches(store, (24, 16), 3, 7, device)
    assert [type(batches) for batches in (resident, streamed)] == [ResidentBatches, TrainingBatches]
    assert len(resident) == len(streamed) == 3
    for epoch, done in ((0, 0), (3, 0), (3, 2), (3, 3)):
        assert len(list(resident.epoch(epoch, done))) == 3 - done
        for own, other in zip(resident.epoch(epoch, done), streamed.epoch(epoch, done), strict=True):
            assert own.value.keys() == other.value.keys()
            assert all(torch.equal(a, b) for a, b in zip(own.tensors(), other.tensors(), strict=True))


def test_poly_schedule_by_hand():
    recipe = params(epochs=4, lr=0.1).training
    assert [learning_rate(recipe, epoch) for epoch in range(4)] == pytest.approx(
        [0.1, 0.1 * 0.75**0.9, 0.1 * 0.5**0.9, 0.1 * 0.25**0.9]
    )
    assert learning_rate(params(schedule="constant").training, 2) == 0.01


def test_step_schedule_is_torch_s():
    recipe = params(epochs=9, lr=0.1, schedule="step", step_epochs=3, step_factor=0.5).training
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    for epoch in range(9):
        assert learning_rate(recipe, epoch) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("every", "validated"), [(0, [5]), (2, [2, 4, 5]), (1, [1, 2, 3, 4, 5]), (None, [])])
def test_validates_when_asked_and_always_at_the_end(store, every, validated):
    _, history, _ = run_training(store, params(epochs=5, validate_every=every))
    assert [record.epoch for record in history if record.scores] == validated


def test_deep_supervision_adds_each_scale_with_the_same_loss(store):
    batch = next(TrainingBatches(store, SIZE, 4, 0, on_gpu=False).epoch(0))
    outputs = Tiny()(batch.image.float() / 255)
    with_it = task_losses(outputs, batch, ("semseg", "depth"), deep_supervision=True)
    without = task_losses(outputs, batch, ("semseg", "depth"), deep_supervision=False)
    loss = get_task("depth").loss
    target, valid = batch.value["depth"], batch.valid["depth"]
    low = nn.functional.interpolate(outputs.auxiliary[0]["depth"], size=SIZE, mode="bilinear")
    torch.testing.assert_close(without["loss/depth"], loss(outputs.final["depth"], target, valid))
    torch.testing.assert_close(with_it["loss/depth"], without["loss/depth"])
    torch.testing.assert_close(with_it["loss_auxiliary/depth"], loss(low, target, valid))
    assert set(without) == {"loss/semseg", "loss/depth"}
    torch.testing.assert_close(by_task(with_it)["depth"], with_it["loss/depth"] + with_it["loss_auxiliary/depth"])


def test_an_auxiliary_task_is_trained_without_a_final_prediction(store):
    batch = next(TrainingBatches(store, SIZE, 4, 0, on_gpu=False).epoch(0))
    outputs = Tiny()(batch.image.float() / 255)
    del outputs.final["depth"]
    losses = task_losses(outputs, batch, ("semseg", "depth"), deep_supervision=False)
    assert set(losses) == {"loss/semseg", "loss_auxiliary/depth"}
    assert losses["loss_auxiliary/depth"] > 0 and losses["loss_auxiliary/depth"].requires_grad


def test_a_loss_that_is_not_finite_names_task_step_and_run(store):
    class Broken(Tiny):
        steps = 0

        def forward(self, image):
            outputs = super().forward(image)
            self.steps += 1
            if self.steps == 4:
                outputs.final["depth"] = outputs.final["depth"] * float("inf")
            return outputs

    with pytest.raises(TrainingError, match=r"loss of depth is (inf|nan) at step 4 of run pair, seed 0.*training\.lr"):
        run_training(store, params(epochs=4), network=Broken())


def test_optimizers_take_the_recipe():
    network = Tiny()
    cpu = choose_device("float32", True)
    sgd = make_optimizer(network, params(optimizer="sgd", momentum=0.7, weight_decay=0.1).training, cpu)
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.7 and sgd.defaults["weight_decay"] == 0.1
    assert type(make_optimizer(network, params(optimizer="adamw").training, cpu)) is torch.optim.AdamW


def test_unusable_device_is_told(monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "abacus")
    with pytest.raises(ParamsError, match="PIPELINE_DEVICE=abacus"):
        choose_device("auto", True)


def test_a_batch_is_moved_whole(store):
    batch = next(TrainingBatches(store, SIZE, 4, 0, on_gpu=False).epoch(0)).to(torch.device("cpu"))
    assert isinstance(batch, Batch) and batch.value["depth"].shape == (4, 1, *SIZE)
    assert batch.valid["semseg"].dtype == torch.bool and batch.image.dtype == torch.uint8
