"""What a pixel gathers: against the plain form of the network, which makes every answer in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.core.errors import ParamsError
from pipeline.evaluation.attention import of_sample, with_sample
from pipeline.evaluation.cross_attention import attention_at, has_cross_attention
from pipeline.networks.registry import build
from tests.reference.sca import PlainHRNet, PlainSequentialAttention
from tests.support.narrow_hrnet import NARROW

TASKS = {"semseg": 5, "normals": 3}
AUXILIARY = {"depth": 1}
PLACE = (0.4, 0.7)
SIZE = (32, 64)


def pixel(x: Tensor) -> Tensor:
    return x[0, :, int(PLACE[0] * x.shape[2]), int(PLACE[1] * x.shape[3])]


def predict(network: nn.Module, image: Tensor, use: Callable[[str, int, Tensor], Any]) -> dict[str, Tensor]:
    """Predictions of the plain network; `use` gets what each CAM, and each value in it, returns, and may replace it.

    By the module's name and the number of the call.
    """
    calls: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple, Tensor], Any]:
        def seen(module: nn.Module, inputs: tuple, output: Tensor) -> Any:
            calls[name] = calls.get(name, -1) + 1
            return use(name, calls[name], output)

        return seen

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in network.named_modules()
        if type(module).__name__ == "PlainCrossAttention" or name.endswith(".value")
    ]
    with torch.inference_mode():
        final = network(image).final
    for handle in handles:
        handle.remove()
    return final


def averaged(wanted: tuple[str, int]) -> Callable[[str, int, Tensor], Tensor | None]:
    """For `predict`: one answer is its mean over the image."""
    return lambda name, call, x: x.mean((-2, -1), keepdim=True).expand_as(x) if (name, call) == wanted else None


@pytest.mark.slow
@pytest.mark.parametrize("csam_attention", ["shared", "per_source"])
def test_weights_gather_the_answer_and_the_change_is_what_its_mean_makes(csam_attention):
    torch.manual_seed(0)
    options = {"csam_attention": csam_attention}
    network = build("sequential_attention", backbone=NARROW, tasks=TASKS, auxiliary_tasks=AUXILIARY, **options)
    plain = PlainSequentialAttention(PlainHRNet(NARROW), TASKS, AUXILIARY, **options)
    plain.load_state_dict(network.state_dict())
    network, plain = network.double().eval(), plain.double().eval()
    image = torch.rand(1, 3, *SIZE, dtype=torch.double)
    found = of_sample(with_sample(attention_at(network, image, PLACE), "id"), "id")  # as `evaluate` keeps it

    assert list(found) == list(TASKS)
    given: dict[tuple[str, int], Tensor] = {}

    def keep(name: str, call: int, output: Tensor) -> None:
        given[name, call] = output

    before = predict(plain, image, keep)
    for task, of in found.items():
        assert [set(scale) for scale in of.tasks] == [(set(TASKS) | set(AUXILIARY)) - {task}] * 4
        assert [list(scale) for scale in of.scales] == [[1, 2, 3], [2, 3], [3], []]
        named = {(k, a): (f"ctam.{k}.attention.{task}.{a}", 0) for k in range(4) for a in of.tasks[k]}
        for k in range(3):
            for i, j in enumerate(of.scales[k]):
                own = csam_attention == "per_source"
                named[k, j] = (f"csam.{task}.attention.{k}.{i if own else 0}", 0 if own else i)
        for (k, source), (name, call) in named.items():
            gathered = of.tasks[k][source] if isinstance(source, str) else of.scales[k][source]
            weights = torch.from_numpy(gathered.weights).double()
            value = given[f"{name}.value", call][0]
            assert weights.shape == value.shape[1:] and weights.min() >= 0
            assert_close(torch.einsum("hw,chw->c", weights, value), pixel(given[name, call]), rtol=1e-5, atol=1e-6)
        for (k, source), wanted in list(named.items())[::3]:
            gathered = of.tasks[k][source] if isinstance(source, str) else of.scales[k][source]
            change = (pixel(predict(plain, image, averaged(wanted))[task]) - pixel(before[task])).norm()
            assert gathered.change == pytest.approx(float(change / pixel(before[task]).norm()), rel=1e-4, abs=1e-9)


def test_ablated_modules_are_left_out_and_nothing_stays_hooked():
    image = torch.rand(1, 3, *SIZE)
    without = build("sequential_attention", backbone=NARROW, tasks=TASKS, csam=False).eval()
    found = attention_at(without, image, (0, 0))["semseg"]
    assert all(found.tasks) and not any(found.scales) and has_cross_attention(without)
    assert not any(module._forward_hooks for module in without.modules())


def test_what_has_no_attention_to_show_is_refused_by_name():
    image = torch.rand(1, 3, *SIZE)
    with pytest.raises(ParamsError, match="MultiTask has no cross attention"):
        attention_at(build("multi_task", backbone=NARROW, tasks=TASKS).eval(), image, PLACE)
    assert not has_cross_attention(build("multi_task", backbone=NARROW, tasks=TASKS))
    bare = build("sequential_attention", backbone=NARROW, tasks=TASKS, ctam=False, csam=False).eval()
    assert not has_cross_attention(bare)
    with pytest.raises(ParamsError, match="neither CTAM nor CSAM"):
        attention_at(bare, image, PLACE)
    with pytest.raises(ParamsError, match=r"place \(0.5, 1.0\)"):
        attention_at(bare, image, (0.5, 1.0))
