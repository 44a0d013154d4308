"""The smallest training there is: a few samples, a network of three convolutions, two tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compute import distributed
from pipeline.compute.device import choose_device
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store, write_split
from pipeline.loading.in_memory import training_batches
from pipeline.loading.loader import Shard
from pipeline.networks.registry import Outputs
from pipeline.params.load import parse_params
from pipeline.params.schema import ResolvedRun
from pipeline.train.loop import TrainingLoop
from pipeline.train.train_run import make_augmenter

SIZE = (32, 32)


def params(epochs: int = 3, balancing: str = "fixed", **training: object) -> ResolvedRun:
    entry = {"architecture": "multi_task", "tasks": ["semseg", "depth"], "balancing": {"method": balancing}}
    return parse_params(
        {
            "experiment": "test",
            "data": {"dataset": "rooms", "tasks": ["semseg", "depth"]},
            "training": {
                "backbone": "none", "input_size": SIZE, "batch_size": 4, "epochs": epochs, "lr": 0.01, **training
            },
            "seeds": [0],
            "runs": {"pair": entry},
        }
    ).run("pair")  # fmt: skip


class Tiny(nn.Module):
    """A network with a final and one auxiliary prediction for each task."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({"semseg": nn.Conv2d(8, 3, 1), "depth": nn.Conv2d(8, 1, 1)})

    def forward(self, image: Tensor) -> Outputs:
        features = self.dropout(self.body(image).relu())
        final = {task: head(features) for task, head in self.heads.items()}
        return Outputs(final, [{task: each[..., ::4, ::4] for task, each in final.items()}])


def make_store(folder: Path, count: int = 10, holes: bool = False) -> Store:
    """A split of `count` samples whose labels can be seen in their images; holes: more of them in the later ones."""
    rng = np.random.default_rng(0)

    def sample(i: int) -> Sample:
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        semseg = (image[..., 0] // 86).astype(np.uint8)
        depth = image[..., 1].astype(np.float32) / 64
        valid = rng.random(SIZE) > i / count if holes else np.ones(SIZE, bool)
        return Sample(str(i), image, {"semseg": Label(semseg, valid), "depth": Label(depth, valid)})

    write_split(folder, (sample(i) for i in range(count)), ["semseg", "depth"])
    return Store(folder, ["semseg", "depth"])


def run_training(store, run, seed=0, network=None, validate=None, log=None, **options):
    """Train, and return the network, the history and, unless `log` takes them, all calls of the log."""
    torch.manual_seed(seed)
    device = choose_device("float32", True, run.training.deterministic, run.training.cpu_threads)
    network = device.network(network or Tiny())
    share = Shard(distributed.rank(), distributed.world_size(), run.training.accumulate)
    recipe = run.training
    batches = training_batches(store, recipe.input_size, recipe.batch_size, seed, device.torch_device, share)
    logged = []
    loop = TrainingLoop(
        network, batches, make_augmenter(run), run, seed, device,
        log or (lambda values, step: logged.append((step, values))),
        validate or (lambda: {"depth": {"rmse": 1.0}}),
        **options,
    )  # fmt: skip
    return network, loop.train(), logged
