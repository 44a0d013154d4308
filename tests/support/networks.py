"""What the tests of all networks share."""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.networks.registry import Outputs


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def predictions(outputs: Outputs) -> list[Tensor]:
    """Final ones first, then those of each auxiliary scale."""
    return [*outputs.final.values(), *(x for scale in outputs.auxiliary for x in scale.values())]


def assert_independent_of_the_batch(net: nn.Module) -> None:
    """In evaluation an image is predicted alike alone and among others."""
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        net(images)  # moves the running statistics off their start
        net.eval()
        together, alone = predictions(net(images)), predictions(net(images[1:2]))
    for a, b in zip(together, alone, strict=True):
        assert_close(a[1:2], b, rtol=1e-3, atol=1e-4)


def assert_compiles(net: nn.Module, image: Tensor) -> None:
    """torch.compile makes one graph of a network in double precision, and it computes the same."""
    compiled = torch.compile(net, fullgraph=True, backend="eager")  # fullgraph: a graph break is an error
    results = []
    with torch.set_grad_enabled(net.training):
        for form in (compiled, net):
            torch.manual_seed(2)  # stochastic depth
            results.append(predictions(form(image)))
    assert_close(*results, rtol=0, atol=1e-9)


def assert_gradient_everywhere(net: nn.Module, outputs: Outputs) -> None:
    """Every parameter has a finite gradient of all predictions, which is not zero."""
    sum(x.square().mean() for x in predictions(outputs)).backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None]
    assert not unreached, unreached
    # A bias before batch norm cannot matter in training; a gate's few hidden units may all be off.
    zero = [name for name, p in net.named_parameters() if not p.grad.any()]
    zero = [name for name in zero if not name.endswith("mix.bias") and ".excite." not in name]
    assert not zero, zero
    assert all(p.grad.isfinite().all() for p in net.parameters())


def never_drop(net: nn.Module) -> None:
    """Switch stochastic depth off: with few images in a batch it may leave a block without a gradient."""
    for layer in net.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0


class Fixed(nn.Module):
    """A backbone that answers every image with the same maps."""

    def __init__(self, channels, maps):
        super().__init__()
        self.channels, self.maps = channels, [x.detach() for x in maps]

    def forward(self, image):
        return self.maps


def normal_statistics(module):
    """Batch norms as after some training: statistics and affine terms unlike those at the start."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)


def open_closed_norms(module):
    """Set scales of batch norms that start at zero (ATRC's projection) to one: no gradient gets through a zero."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d) and not layer.weight.any():
            torch.nn.init.ones_(layer.weight)
