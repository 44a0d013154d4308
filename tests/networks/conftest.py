"""Shared by tests of networks."""

import copy

import pytest
import torch

from pipeline.networks.registry import Backbone


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
