"""A checkpoint made from the plain form of each network, in the names of its code, scores as our own weights do.

The way from our names to theirs is written anew in `tests/support/renamed_weights.py`, with cuts and concatenations
where the library has orders of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.adopt.checkpoint import read_checkpoint
from pipeline.adopt.network import adopt
from pipeline.compute.device import choose_device
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store, write_split
from pipeline.evaluation.scoring import score
from pipeline.networks.from_params import build_network
from pipeline.networks.registry import Backbone
from tests.reference.networks import PlainATRC, PlainMTINet, PlainMultiTask, PlainPADNet, PlainSingleTask
from tests.reference.sca import PlainHRNet, PlainSequentialAttention
from tests.support import renamed_weights
from tests.support.adopted import info_of, run_of
from tests.support.narrow_hrnet import NARROW
from tests.support.networks import normal_statistics

pytestmark = pytest.mark.slow

TASKS = {"semseg": 3, "depth": 1}
FORMS = {
    "sequential_attention": (PlainSequentialAttention, lambda own: renamed_weights.sca_names(own, len(TASKS))),
    "mti_net": (PlainMTINet, renamed_weights.mti_net_names),
    "pad_net": (PlainPADNet, renamed_weights.pad_net_names),
    "atrc": (PlainATRC, renamed_weights.atrc_names),
    "multi_task": (PlainMultiTask, renamed_weights.mti_net_names),
    "single_task": (PlainSingleTask, renamed_weights.mti_net_names),
}


def make_store(folder: Path, tasks: Sequence[str]) -> Store:
    rng = np.random.default_rng(0)
    valid = np.ones((40, 60), bool)

    def sample(i: int) -> Sample:
        semseg = rng.integers(0, 3, valid.shape, dtype=np.uint8)
        depth = rng.uniform(0.5, 3, valid.shape).astype(np.float32)
        image = rng.integers(0, 256, (*valid.shape, 3), dtype=np.uint8)
        return Sample(str(i), image, {"semseg": Label(semseg, valid), "depth": Label(depth, valid)})

    write_split(folder, (sample(i) for i in range(3)), list(TASKS))
    return Store(folder, tasks)


@pytest.mark.parametrize("lightning", [False, True])
@pytest.mark.parametrize("architecture", FORMS)
def test_scores_are_the_same_to_the_last_bit(tmp_path: Path, architecture: str, lightning: bool):
    torch.manual_seed(0)
    plain_class, names = FORMS[architecture]
    tasks = {"semseg": 3} if architecture == "single_task" else TASKS
    backbone = "hrnet_sixes" if architecture == "sequential_attention" else NARROW
    plain = plain_class(PlainHRNet(backbone) if backbone != NARROW else Backbone(backbone), tasks, {})
    normal_statistics(plain)
    for parameter in plain.parameters():
        if not parameter.any():  # what starts at zero would hide an order
            nn.init.normal_(parameter, std=0.1)
    state = names(plain.state_dict())
    parallel = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 1, **({"state_dict": state} if lightning else {"model": parallel})}, tmp_path / "a.pth")

    run, info = run_of(architecture, tuple(tasks), backbone=backbone), info_of(TASKS)
    network, _ = adopt(read_checkpoint(tmp_path / "a.pth"), run, info)
    own = build_network(run, info)
    own.load_state_dict(plain.state_dict())
    adopted = network.state_dict()
    for name, value in own.state_dict().items():
        assert torch.equal(adopted[name], value), name

    store, device = make_store(tmp_path / "store", run.tasks), choose_device("float32", True, False, 1)
    found = [score(device.network(each), store, run.tasks, info, run.training, 2, device) for each in (network, own)]
    assert found[0] == found[1] and set(found[0]) == set(tasks)

    network.double().eval()
    plain.double().eval()
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert_close(network(image).final, plain(image).final, rtol=0, atol=1e-9)
