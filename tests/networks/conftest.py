"""Shared by tests of networks."""

import copy

import pytest
import torch

from pipeline.networks import pad_net
from pipeline.networks.registry import Backbone
from tests.reference import networks as reference


@pytest.fixture(scope="module")
def backbones():
    """{name: backbone} as built on first use; the networks copy what they are given."""
    made: dict[str, Backbone] = {}

    def get(name: str) -> Backbone:
        if name not in made:
            torch.manual_seed(0)
            made[name] = Backbone(name)
        return copy.deepcopy(made[name])

    return get


@pytest.fixture
def narrow_pad_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """PAD-Net, and its plain form, at an eighth of their width: for what must hold whatever the width."""
    monkeypatch.setattr(pad_net, "WIDTH", pad_net.WIDTH // 8)
    monkeypatch.setattr(reference, "PAD_NET_WIDTH", reference.PAD_NET_WIDTH // 8)
