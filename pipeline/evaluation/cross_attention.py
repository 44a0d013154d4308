"""What a pixel gathers by sequential cross attention: in CTAM from the other tasks, in CSAM from the coarser scales.

Linear attention never makes its map of weights, which is what makes it linear. One row of that map, q . k / sum(q . k)
over the source's pixels, is cheap: the weights of one pixel. They say from where its answer was gathered, not what the
answer is worth, since every row adds up to 1. What it is worth is measured apart, by taking it away.

Shapes: C channels, H, W of the image; h, w of a source's map; T tasks; K scales, fine to coarse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import ParamsError
from pipeline.evaluation.attention import Gathered, Place, TaskAttention
from pipeline.networks.sca.attention import CrossAttention
from pipeline.networks.sca.csam import CrossScaleAttention
from pipeline.networks.sca.ctam import CrossTaskAttention
from pipeline.networks.sca.network import SequentialAttention


def has_cross_attention(network: nn.Module) -> bool:
    """Whether there is attention to show: of `SequentialAttention` with CTAM or CSAM."""
    return isinstance(network, SequentialAttention) and any(True for _ in _answers(network))


@torch.inference_mode()
def attention_at(network: nn.Module, image: Tensor, place: Place) -> dict[str, TaskAttention]:
    """{task: what the pixel at `place` gathered} for each main task of a network in evaluation mode.

    image: (1, 3, H, W), normalised. One forward pass for each answer, beside the first, in float32: changes of a
    thousandth would drown in bfloat16.
    Raises ParamsError for a network without CTAM and CSAM, and for a place outside of the image.
    """
    if not isinstance(network, SequentialAttention):
        raise ParamsError(f"{type(network).__name__} has no cross attention to show; sequential_attention has")
    if not all(0 <= part < 1 for part in place):
        raise ParamsError(f"place {place}: two fractions of the image are expected, each at least 0 and below 1")
    answers = list(_answers(network))
    if not answers:
        raise ParamsError("this network has neither CTAM nor CSAM (options ctam, csam): there is no attention to show")
    with ExitStack() as hooks:
        calls = {cam: hooks.enter_context(_recorded(cam)) for cam in {answer.cam for answer in answers}}
        prediction = network(image).final

    scales = range(len(network.features))
    tasks: dict[str, list[dict[str, Gathered]]] = {task: [{} for _ in scales] for task in network.tasks}
    coarser: dict[str, list[dict[int, Gathered]]] = {task: [{} for _ in scales] for task in network.tasks}
    for answer in answers:
        with answer.averaged():
            other = network(image).final[answer.task]
        before, after = _pixel(prediction[answer.task], place), _pixel(other, place)
        change = (after - before).norm() / before.norm()  # of a prediction of 0: not a number, or infinite
        weights = _row(calls[answer.cam].queries[0], calls[answer.cam].keys[answer.call], place)
        gathered = Gathered(weights.float().cpu().numpy(), float(change))
        if isinstance(answer.source, str):
            tasks[answer.task][answer.scale][answer.source] = gathered
        else:
            coarser[answer.task][answer.scale][answer.source] = gathered
    return {task: TaskAttention(tuple(tasks[task]), tuple(coarser[task])) for task in network.tasks}


@dataclass(frozen=True)
class _Answer:
    """One use of a CAM: what `task` at `scale` takes from `source`, a task or a coarser scale.

    call: which use of the CAM's keys it is, since CSAM may share a CAM among sources. averaged: a context in which the
    answer is its mean over the image.
    """

    task: str
    scale: int
    source: str | int
    cam: CrossAttention
    call: int
    averaged: Callable[[], AbstractContextManager[None]]


def _answers(network: SequentialAttention) -> Iterator[_Answer]:
    for task in network.tasks:
        for k, ctam in enumerate(network.ctam):
            if isinstance(ctam, CrossTaskAttention):
                for source, cam in _cams(ctam.attention[task]).items():
                    yield _Answer(task, k, source, cam, 0, partial(_hooked, cam, _mean))
        csam = None if network.csam is None else network.csam[task]
        if isinstance(csam, CrossScaleAttention):
            for k, attention in enumerate(csam.attention):
                cams = list(_cams(attention).values())
                coarser = range(k + 1, len(csam.attention) + 1)
                shared = len(cams) < len(coarser)
                for i, j in enumerate(coarser):
                    averaged = partial(_hooked, csam, partial(_with_mean_of, k, 1 + i))
                    yield _Answer(task, k, j, cams[0 if shared else i], i if shared else 0, averaged)


def _cams(modules: nn.Module) -> dict[str, CrossAttention]:
    """By their names in a list or dictionary of modules."""
    return {name: cam for name, cam in modules.named_children() if isinstance(cam, CrossAttention)}


@dataclass(frozen=True)
class _Calls:
    """What a CAM computed in one pass: queries (1, C, H, W), of which there is one, and keys (1, C, h, w)."""

    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)


@contextmanager
def _recorded(cam: CrossAttention) -> Iterator[_Calls]:
    calls = _Calls()
    with _hooked(cam.query, calls.queries.append), _hooked(cam.key, calls.keys.append):
        yield calls


@contextmanager
def _hooked(module: nn.Module, use: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block `use` gets what the module returns, and replaces it by what it returns itself, if anything."""
    handle = module.register_forward_hook(lambda module, inputs, output: use(output))
    try:
        yield
    finally:
        handle.remove()


def _mean(x: Tensor) -> Tensor:
    """(B, C, H, W) -> the same shape: everywhere the mean over the image."""
    return x.mean((-2, -1), keepdim=True).expand_as(x)


def _with_mean_of(scale: int, index: int, gathered: list[list[Tensor]]) -> list[list[Tensor]]:
    """What CSAM gathered, with one answer averaged."""
    maps = list(gathered[scale])
    maps[index] = _mean(maps[index])
    return [*gathered[:scale], maps, *gathered[scale + 1 :]]


def _row(query: Tensor, key: Tensor, place: Place) -> Tensor:
    """The weights (h, w) by which the pixel at `place` of a query's map takes values from a key's."""
    weights = torch.einsum("c,chw->hw", _pixel(query, place).double(), key[0].double())
    return weights / weights.sum()


def _pixel(x: Tensor, place: Place) -> Tensor:
    """(1, C, H, W) -> (C,) of the pixel that `place` falls on."""
    height, width = x.shape[-2:]
    return x[0, :, int(place[0] * height), int(place[1] * width)]
