"""Whether the network of a run can be built and trained at all, found out without data, memory or weights."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.core.errors import ParamsError
from pipeline.data.store import DatasetInfo
from pipeline.evaluation.cost import without_data
from pipeline.networks.from_params import build_network
from pipeline.params.schema import ResolvedRun


def check_network(run: ResolvedRun, info: DatasetInfo) -> None:
    """Build it, and where a step's part of the batch is one image, look for batch norms that get one value a channel.

    Raises ParamsError where it can't be built, or batch norm could not be trained.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        build_network(run, info)
    if run.training.batch_size == run.training.accumulate:
        check_batch_norm(run, info, 1)


def check_batch_norm(run: ResolvedRun, info: DatasetInfo, images: int) -> None:
    """Raise ParamsError where a batch norm of the run's network gets one value a channel from `images` images.

    That has no deviation, so torch refuses to train on it: at the first step, with a traceback. Several images always
    give more than one value.
    """
    if images > 1:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = build_network(run, info)
    height, width = run.training.input_size
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        twin = without_data(network).train()
        twin(torch.empty(1, 3, height, width, device="cpu"))
    # Such layers went to evaluation mode by themselves, as in `cost.measure`.
    starved = [name for name, layer in twin.named_modules() if isinstance(layer, _BatchNorm) and not layer.training]
    if starved:
        raise ParamsError(
            f"run {run.name}: batch norm can't be trained on one image of {height}x{width} pixels at a time: "
            f"{len(starved)} of its layers, {starved[0]} for one, get one value a channel. Give input_size more than "
            "32 pixels on a side, or let each of `accumulate` parts of the batch have two images or more"
        )
