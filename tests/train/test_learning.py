"""Every architecture learns: on a few small images whose labels can be seen in them, its losses fall."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.networks import pad_net
from pipeline.networks.registry import ARCHITECTURES, build
from tests.support.narrow_hrnet import NARROW
from tests.support.narrow_resnet import NARROW_RESNET

pytestmark = pytest.mark.slow

STEPS = 20


def batch() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Four 32x64 images of coloured blocks; semseg is the colour, depth the brightness."""
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(0, 3, (4, 1, 4, 8), generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    bright = torch.rand((4, 1, 2, 4), generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3) + 0.5
    image = F.one_hot(colour.squeeze(1), 3).permute(0, 3, 1, 2) * bright
    return image * 2 - 1, {"semseg": colour.squeeze(1), "depth": bright}


def losses(outputs, target):
    """Cross-entropy and L1 of every prediction, by task, as training sums them."""
    found = {"semseg": 0.0, "depth": 0.0}
    for scale in (outputs.final, *outputs.auxiliary):
        for task, prediction in scale.items():
            prediction = F.interpolate(prediction, size=(32, 64), mode="bilinear")
            loss = F.cross_entropy if task == "semseg" else F.l1_loss
            found[task] = found[task] + loss(prediction, target[task])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_fall(architecture, monkeypatch):
    monkeypatch.setattr(pad_net, "WIDTH", 32)  # 256 take seconds
    torch.manual_seed(0)
    tasks = {"semseg": 3} if architecture == "single_task" else {"semseg": 3, "depth": 1}
    # mtan needs two blocks a stage; these two are made for a backbone of several resolutions.
    own = {"mtan": NARROW_RESNET, "mti_net": NARROW, "sequential_attention": NARROW}
    backbone = own.get(architecture, "test_resnet")
    net = build(architecture, backbone=backbone, tasks=tasks).train()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    image, target = batch()
    history = []
    for _ in range(STEPS):
        found = losses(net(image), target)
        optimizer.zero_grad()
        sum(found[task] for task in tasks).backward()
        optimizer.step()
        history.append({task: float(found[task].detach()) for task in tasks})
    for task in tasks:
        assert history[-1][task] < 0.6 * history[0][task], (task, history[0][task], history[-1][task])
