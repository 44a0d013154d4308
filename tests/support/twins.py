"""Two forms of one network: the same weights, a step of each, and the difference between the steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.networks.registry import Outputs


def tensors(x) -> list[Tensor]:
    """All tensors of nested lists, dictionaries and Outputs, in order."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, Outputs):
        return tensors([x.final, x.auxiliary])
    return [t for part in (x.values() if isinstance(x, dict) else x) for t in tensors(part)]


def run(module: nn.Module, inputs) -> dict[str, Tensor]:
    """One step in training mode: results, and gradients of inputs and parameters of a fixed random loss, by name."""
    leaves = tensors(inputs)
    for leaf in leaves:
        leaf.grad = None
        leaf.requires_grad_()
    module.zero_grad(set_to_none=True)
    torch.manual_seed(2)  # stochastic depth
    results = tensors(module(inputs))
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in results)
    loss.backward()
    found = {f"result {i}": x.detach() for i, x in enumerate(results)}
    found |= {f"gradient of input {i}": x.grad.clone() for i, x in enumerate(leaves)}
    # In training, what a bias before batch norm adds is taken away: its gradient is rounding.
    moot = "mix.bias" if module.training else "-"
    parameters = [(n, p) for n, p in module.named_parameters() if p.grad is not None and not n.endswith(moot)]
    return found | {f"gradient of {n}": p.grad for n, p in parameters}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """No difference of two runs is larger than `tolerance`, relative to the largest value of its tensor.

    Gradients that nearly cancel, as attention's scale of keys and whatever batch norm takes away again, are all
    rounding: a gradient's difference is taken relative to at least a hundredth of the largest gradient of the run.
    """
    assert found.keys() == expected.keys()
    floor = 0.01 * max(x.abs().max() for name, x in expected.items() if name.startswith("gradient"))
    apart = {}
    for name, x in expected.items():
        size = x.abs().max() if name.startswith("result") else max(x.abs().max(), floor)
        apart[name] = ((found[name] - x).abs().max() / size).item()
    name = max(apart, key=apart.__getitem__)
    assert apart[name] < tolerance, f"{name} differs by {apart[name]:.1e}"


def twins(fast: nn.Module, plain: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both with the same, random weights; the fast one in channels-last memory, as the pipeline runs it."""
    for name, p in fast.named_parameters():
        nn.init.normal_(p, std=0.1 if p.dim() < 2 else p[0].numel() ** -0.5)
        if p.dim() == 1 and name.endswith("weight"):
            nn.init.uniform_(p, 0.5, 1.5)
    plain.load_state_dict(fast.state_dict())
    return fast.to(memory_format=torch.channels_last), plain
