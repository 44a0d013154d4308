"""Two processes on this machine against one: the same losses, the same scores, and one end for both."""

import os
import signal
import socket
import time

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import nn

from pipeline.compute import distributed
from pipeline.compute.sync_batch_norm import synchronise_batch_norm
from pipeline.core import paths, shutdown
from pipeline.core.errors import ParamsError
from pipeline.data.store import Store
from pipeline.loading.loader import Shard
from pipeline.tasks import TASKS
from pipeline.tools import launcher
from pipeline.train.resume import Attempt, Checkpoints, attempt, follow
from tests.support.tiny_training import Tiny, make_store, params, run_training

pytestmark = pytest.mark.slow

AUGMENTATION = {"flip": 0.5, "scale": [0.8, 1.2], "scale_mode": "range", "rotation": 10, "contrast": 0.5}


class Normed(Tiny):
    """With both kinds of batch norm, and a part that nothing depends on."""

    def __init__(self, dropout=0.0):
        super().__init__(dropout)
        first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.body = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, BatchNormAct2d(8))
        self.idle = nn.Conv2d(1, 1, 1)


@pytest.fixture(autouse=True)
def one_thread():
    """As in each of the processes: threads share out sums, and so change their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _enter(rank, port, work, folder, count):
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["PIPELINE_DEVICE"] = "cpu"  # the server may have been started by a test of the GPU
    os.chdir(folder)
    torch.set_num_threads(1)
    with distributed.joined(torch.device("cpu")):
        torch.save(work(folder), folder / f"{work.__name__}-{rank}.pt")
    os._exit(0)  # else it would wait for workers that match edges, which a forked process never tells to end


def together(work, folder, count=2):
    """What work(folder) returns in each of `count` processes, which are joined.

    They are forked from a server that only imports and compiles: this process has threads and pools, which a fork would
    break.
    """
    mp.get_context("forkserver").set_forkserver_preload(["pytest", "tests.support.preloaded"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_enter, (port, work, folder, count), nprocs=count, start_method="forkserver")
    return [torch.load(folder / f"{work.__name__}-{rank}.pt", weights_only=False) for rank in range(count)]


RECIPES = {
    "plain": {"lr": 1e-3},
    "parts, clipped": {"lr": 1e-3, "accumulate": 2, "clip_norm": 0.5},
    "without deep supervision": {"lr": 1e-3, "deep_supervision": False, "optimizer": "sgd"},
    # Factors of losses, learnt, drawn and by a second look; weights of gradients, drawn, solved for and of two halves.
    **{method: {"lr": 1e-3, "balancing": method} for method in ("uw", "rlw", "famo", "gradnorm", "graddrop", "cagrad")},
    "modo": {"lr": 1e-3, "balancing": "modo", "accumulate": 2},
}


def learn(folder):
    """20 steps by each recipe on labels with holes, more in some images than in others."""
    results = {}
    for name, recipe in RECIPES.items():
        torch.manual_seed(0)
        run = params(epochs=10, batch_size=8, augmentation=AUGMENTATION, **recipe)
        lines = []
        network, _, _ = run_training(
            Store(folder / "train", ["semseg", "depth"]), run, 0, Normed(), log=lambda v, s, to=lines: to.append((s, v))
        )
        results[name] = lines, {key: tensor.clone() for key, tensor in network.state_dict().items()}
    return results


def test_twenty_steps_are_those_of_one_process(tmp_path):
    make_store(tmp_path / "train", 16, holes=True)
    alone = learn(tmp_path)
    pair = together(learn, tmp_path)
    for name, (lines, weights) in alone.items():
        first, second = (each[name] for each in pair)
        assert [step for step, _ in first[0]] == [step for step, _ in lines] and lines[-1][0] == 20
        for (_, own), (_, other) in zip(lines, first[0], strict=True):
            assert other == pytest.approx(own, abs=1e-5), name
        for key, tensor in weights.items():
            torch.testing.assert_close(first[1][key], tensor, rtol=1e-4, atol=1e-4)
            assert torch.equal(first[1][key], second[1][key]), "processes never drift apart"


def losses_of_a_lopsided_batch(folder):
    """Every task's loss and gradient where one process has all positives, and hardly a valid pixel."""
    rng = torch.Generator().manual_seed(0)
    batch, own = 4, slice(2 * distributed.rank(), 2 * distributed.rank() + 4 // distributed.world_size())
    results = {}
    for name, task in TASKS.items():
        channels = task.channels or 5
        prediction = torch.randn(batch, channels, 8, 8, generator=rng)
        target = torch.randn(batch, task.label_channels, 8, 8, generator=rng).abs()
        if task.categorical:
            target = (target > 1).to(torch.uint8)
        target[:2] = target[:2].clamp(min=1) if task.categorical else target[:2]
        valid = torch.rand(batch, 1, 8, 8, generator=rng) < torch.tensor([0.1, 0.0, 0.9, 1.0]).view(4, 1, 1, 1)
        prediction = prediction[own].requires_grad_()
        loss = task.loss(prediction, target[own], valid[own])
        loss.backward()
        results[name] = loss.detach(), prediction.grad
    return results


def test_parts_of_a_loss_add_up_to_it(tmp_path):
    alone, (first, second) = losses_of_a_lopsided_batch(tmp_path), together(losses_of_a_lopsided_batch, tmp_path)
    for task, (loss, gradient) in alone.items():
        torch.testing.assert_close(first[task][0] + second[task][0], loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.cat([first[task][1], second[task][1]]), gradient, rtol=1e-5, atol=1e-7)


def resumed(folder):
    """Weights of a training with dropout, undisturbed and stopped on the way, when only one process is asked to."""
    torch.manual_seed(0)
    store, ends = Store(folder / "train", ["semseg", "depth"]), []
    run = params(epochs=3, batch_size=8, augmentation=AUGMENTATION)

    def go(key, network):
        if distributed.is_main_process():
            with attempt(key) as turn:
                distributed.barrier()
                return run_training(store, run, 0, network, checkpoints=Checkpoints(turn, 1e9, lambda: ((), 0.0)))[0]
        distributed.barrier()
        return run_training(store, run, 0, network, checkpoints=Checkpoints(follow(key), 1e9, lambda: ((), 0.0)))[0]

    def tell(steps):
        steps.append(1)
        if len(steps) == 3 and not distributed.is_main_process():
            os.kill(os.getpid(), signal.SIGTERM)

    torch.manual_seed(0)
    ends.append(go("undisturbed", Normed(dropout=0.3)))
    torch.manual_seed(0)
    network, steps = Normed(dropout=0.3), []
    network.register_forward_pre_hook(lambda *_: tell(steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attempt, "save", lambda *arguments, save=Attempt.save: (time.sleep(0.5), save(*arguments)))
        with shutdown.graceful_shutdown(), pytest.raises(KeyboardInterrupt):
            go("asked", network)
    written = torch.load(paths.training_folder("asked") / "checkpoint.pt", weights_only=True)
    assert written["state"]["step"] == 3, "nobody leaves before it is written"
    assert len(steps) == 3, "it stops after the step at hand"
    torch.manual_seed(0)
    ends.append(go("asked", Normed(dropout=0.3)))
    return [{key: tensor.clone() for key, tensor in network.state_dict().items()} for network in ends]


def test_one_is_told_to_end_and_both_go_on_later_exactly(in_tmp):
    make_store(in_tmp / "train", 16)
    for undisturbed, again in together(resumed, in_tmp):
        assert all(torch.equal(undisturbed[key], again[key]) for key in undisturbed)
    assert paths.training_folder("asked").exists()


def test_shares_make_up_every_part_of_every_batch():
    order = np.random.default_rng(0).permutation(24)  # two batches of 12 in 3 parts for 2 processes
    first, second = (Shard(rank, 2, 3).of(order, 12) for rank in (0, 1))
    parts = np.concatenate([first.reshape(6, 2), second.reshape(6, 2)], axis=1)
    assert (parts == order.reshape(6, 4)).all() and (Shard(parts=3).of(order, 12) == order).all()


def test_batch_norm_keeps_its_names_and_its_numbers_in_evaluation():
    network = Normed().eval()
    before, names = network(torch.ones(2, 3, 8, 8)).final["depth"], list(network.state_dict())
    synchronise_batch_norm(network, torch.device("cpu"))
    assert list(network.state_dict()) == names
    assert torch.equal(network(torch.ones(2, 3, 8, 8)).final["depth"], before)


@pytest.fixture
def launched(monkeypatch):
    """The commands that this process would have become."""
    commands = []
    environment = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "PIPELINE_LAUNCHER")}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "execvp", lambda *command: commands.append(command))
    return commands


def test_the_launcher_is_run_once(launched):
    launcher.relaunch("stages.train", ["--run", "a"])
    os.environ["PIPELINE_LAUNCHER"] = "torchrun --nproc-per-node=4 --log-dir 'a b'"
    launcher.relaunch("stages.train", ["--run", "a"])
    os.environ["WORLD_SIZE"] = "4"
    launcher.relaunch("stages.train", ["--run", "a"])
    words = ["torchrun", "--nproc-per-node=4", "--log-dir", "a b", "-m", "stages.train", "--run", "a"]
    assert launched == [("torchrun", words)]


def test_a_launcher_that_only_starts_copies_is_told(launched):
    os.environ["PIPELINE_LAUNCHER"] = "srun -n 4 python"
    launcher.relaunch("stages.train", [])
    with pytest.raises(ParamsError, match=r"PIPELINE_LAUNCHER: srun does not tell WORLD_SIZE.*let it start torchrun"):
        launcher.relaunch("stages.train", [])


def test_a_launcher_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | {"PIPELINE_LAUNCHER": "no-such-launcher -n 4"})
    with pytest.raises(ParamsError, match="PIPELINE_LAUNCHER: no-such-launcher can't be started"):
        launcher.relaunch("stages.train", [])
