"""The names of SCA_MTL (commit 8214866), the released code of sequential cross attention.

Four things are laid out otherwise; all are undone in the weights, so the function is the same.

- A scale's map is [ATT, backbone] there and [backbone, ATT] here. Blocks with a convolution in their shortcut read it
  in any order. At the coarsest scale there is none, so the order goes on to all that lies behind, as far as FPMA.
- CTAM's reduction reads the other tasks last to first there.
- The head reads each attended map beside its target; here the copies of the target stand together.
- Squeeze-and-excitation has linear layers there, 1x1 convolutions here.

The released code can't be run with auxiliary tasks, and FPMA's softmax over neighbouring channels needs their order.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.adopt.rules import (
    Index,
    Rule,
    Rules,
    Unused,
    attention,
    backbone,
    conv_norm,
    excitation,
    hrnet_head,
    in_order,
    module,
    residual,
)

UNUSED = (
    Unused(r".+\.norm2\.(weight|bias)", "the second norm of a window block, which is never called"),
    Unused(r".+\.relative_position_index", "indices that follow from the window's size"),
)
_TASK = r"(?P<task>\w+)"


def swapped(channels: int) -> list[int]:
    """Channels of [backbone, ATT], `channels` each, in [ATT, backbone]."""
    return [*range(channels, 2 * channels), *range(channels)]


def sequential_attention(tasks: Sequence[str], channels: Sequence[int]) -> Rules:
    """The rules of SCA for these tasks, in the released order. channels: of the backbone's maps, fine to coarse."""
    last = len(channels) - 1
    rules: list[Rule] = [backbone()]
    for k, c in enumerate(channels):
        order = swapped(c) if k == last else None  # of all maps of the scale but those that ATT and CAM make
        rules += _window_attention(rf"att\.{k}", f"swTransform{k + 1}", 2, None)
        rules += _features(k, c, channels[k + 1] if k < last else None, k + 1 == last)
        rules += _ctam(k, 2 * c, len(tasks), order)
        if k > 0:
            rules += _fpma(k, 2 * c, tasks, order)
    rules += _csam(channels)
    rules += hrnet_head(rf"heads\.{_TASK}", r"heads.\g<task>", _head_columns(channels))
    return Rules(tuple(rules), UNUSED)


def _window_attention(ours: str, theirs: str, depth: int, order: Index) -> list[Rule]:
    rules = [
        module(rf"{ours}\.embed", f"{theirs}.patch_embed.proj", order, order),
        module(rf"{ours}\.norm_in", f"{theirs}.patch_embed.norm", order),
        module(rf"{ours}\.norm_out", f"{theirs}.norm0", order),
    ]
    for i in range(depth):
        own, block = rf"{ours}\.blocks\.{i}", f"{theirs}.layers.0.blocks.{i}"
        table = "relative_position_bias_table"
        rules += [
            module(rf"{own}\.norm", f"{block}.norm1", order),
            module(rf"{own}\.attention\.qkv", f"{block}.attn.qkv", None, order),
            module(rf"{own}\.attention\.proj", f"{block}.attn.proj", order),
            Rule(rf"{own}\.attention\.{table}", (f"{block}.attn.{table}",)),
        ]
    return rules


def _features(k: int, c: int, coarser: int | None, from_last: bool) -> list[Rule]:
    """Two residual blocks a task. coarser: channels of the backbone's next map; from_last: that is the coarsest."""
    columns = swapped(c)
    if coarser is not None:
        propagated = swapped(coarser) if from_last else range(2 * coarser)
        columns += [2 * c + i for i in propagated]
    coarsest = coarser is None
    order = columns if coarsest else None
    ours, theirs = rf"features\.{k}\.{_TASK}", rf"scale_{k}.%s.\g<task>"
    return [
        *residual(rf"{ours}\.blocks\.0", f"{theirs % 'refinement'}.0", order, columns),
        *residual(rf"{ours}\.blocks\.1", f"{theirs % 'refinement'}.1", order, order),
        module(rf"{ours}\.predict", theirs % "decoders", None, order),
    ]


def _ctam(k: int, c: int, tasks: int, order: Index) -> list[Rule]:
    """c: channels of the scale's maps."""
    own = list(order) if order is not None else list(range(c))
    pairs = [[2 * c * i + j for j in (*own, *range(c, 2 * c))] for i in reversed(range(tasks - 1))]
    columns = [i for pair in pairs for i in pair]
    theirs = f"distillation_scale_{k}"
    return [
        *attention(
            rf"ctam\.{k}\.attention\.{_TASK}\.(?P<source>\w+)",
            rf"{theirs}.cross_attention.\g<task>.\g<source>",
            order,
        ),
        *residual(rf"ctam\.{k}\.reduce\.shared", f"{theirs}.dimensionality_reduction", order, columns),
    ]


def _fpma(k: int, c: int, tasks: Sequence[str], order: Index) -> list[Rule]:
    ours, theirs = rf"fpma\.{k - 1}", f"fpm_scale_{k}"
    everything = in_order(tasks, tasks, c, order)
    return [
        *_window_attention(rf"{ours}\.attention", f"{theirs}.swtf", 1, everything),
        *residual(rf"{ours}\.reduce", f"{theirs}.dimensionality_reduction", order, everything),
        *excitation(rf"{ours}\.excite\.{_TASK}", rf"{theirs}.se.\g<task>", order),
    ]


def _csam(channels: Sequence[int]) -> list[Rule]:
    rules = []
    last = len(channels) - 1
    for k in range(last):
        ours, theirs = rf"csam\.{_TASK}", r"heads.\g<task>"
        for j in range(k + 1, last + 1):
            columns = swapped(channels[j]) if j == last else None
            name = f"{theirs}.upsample{j}{k}"
            rules += conv_norm(rf"{ours}\.project\.{k}\.{j - k - 1}", name, ".0", ".1", None, columns)
        rules += attention(rf"{ours}\.attention\.{k}\.0", f"{theirs}.cross_scale_attention{k}")
    return rules


def _head_columns(channels: Sequence[int]) -> list[int]:
    """What the head mixes: [target] * n, then n attended maps here; n pairs of target and attended map there."""
    index: list[int] = []
    last = len(channels) - 1
    for k, base in enumerate(channels):
        c, start, count = 2 * base, len(index), last - k
        if count == 0:
            return index + [start + i for i in swapped(base)]
        for part in (0, c):
            index += [start + 2 * c * pair + part + i for pair in range(count) for i in range(c)]
    raise AssertionError("no scale")
