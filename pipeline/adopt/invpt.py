"""The names of Multi-Task-Transformer (commits 98233d9 and 7e0f149), the released code of InvPT, on ViT-L.

Its backbone has timm's names. Tasks are numbered in its decoder, and named before and behind it. Three things are laid
out otherwise; all are undone in the weights, so the function is the same.

- The last convolution before a prediction has a bias, which its batch norm takes away again with the mean.
- Saliency has two logits. The preliminary ones are combined with the features that they are made of, both by 1x1
  convolutions, so the first one's part is put into the features' weights.
- The norm of a stage goes over the channels of all tasks, in the order of its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.adopt.checkpoint import Checkpoint
from pipeline.adopt.rules import Rule, Rules, Unused, conv_norm, in_order, module, of_two_classes
from pipeline.core import names
from pipeline.params.schema import ResolvedRun

PATCH = 16
STAGES = 3
SIZES = {"NYUD": (448, 576), "PASCAL-Context": (512, 512)}
"""The size (H, W) of the images that a released network was trained on and has position embeddings for."""
POSITIONS = "backbone.pos_embed"
TASKS = r"multi_task_decoder\.intermediate_head\.(\w+)\.weight"

_TASK = r"(?P<task>\w+)"
_DECODER = "multi_task_decoder"
_STAGES = rf"{_DECODER}\.invpt\.invpt_stages"
_SHIFT = "it shifts all scores of a query alike, which the softmax undoes"
UNUSED = (
    Unused(rf"{_DECODER}\.invpt\.norm_mt\..+", "a norm that is never called"),
    Unused(rf"{_DECODER}\.invpt\.redu_chan\.0\..+", "never called, as the first stage has all channels"),
    Unused(rf"{_DECODER}\.scale_embed\.2\..+", "a convolution of the third depth, whose result is added nowhere"),
    Unused(rf"{_STAGES}\.0\.blocks\.0\.attn\.fuse_attn\..+", "the first stage receives no scores to mix"),
    Unused(rf"{_STAGES}\.[12]\.blocks\.0\.attn\.fuse_attn\.bias", _SHIFT),
    Unused(rf"{_STAGES}\.\d\.blocks\.0\.attn\.proj_k\.bias", _SHIFT),
)  # fmt: skip


def invpt(tasks: Sequence[str], theirs: Sequence[str], width: int, notes: Sequence[str] = ()) -> Rules:
    """tasks: in our order; theirs: in the file's. width: channels of the preliminary features."""
    channels = width + width // 8
    rules = [Rule(r"backbone\.net\.model\.(.+)", (r"backbone.\1",)), *_preliminary()]
    for k in range(STAGES):
        rules += _stage(k, [theirs.index(task) for task in tasks])
        order = in_order(tasks, theirs, channels // 2**k)
        rules.append(module(rf"stages\.{k}\.norm", f"{_DECODER}.invpt.norm_mts.{k}", order))
    rules.append(module(r"stages\.1\.skip", f"{_DECODER}.scale_embed.1"))
    rules.append(module(r"stages\.2\.skip", f"{_DECODER}.scale_embed.0"))
    return Rules((*rules, *_last()), UNUSED, tuple(notes))


def _preliminary() -> list[Rule]:
    head, mix = f"{_DECODER}.intermediate_head", f"{_DECODER}.invpt.mix_proj"
    of_sal = (f"{mix}.sal.0.weight", f"{head}.sal.weight")
    rules = [
        Rule(r"preliminary\.sal\.predict\.(weight|bias)", (rf"{head}.sal.\1",), of_two_classes),
        Rule(r"preliminary\.sal\.combine\.weight", of_sal, _combined_weight),
        Rule(
            r"preliminary\.sal\.combine\.bias", (f"{mix}.sal.0.bias", *of_sal[:1], f"{head}.sal.bias"), _combined_bias
        ),
        module(rf"preliminary\.{_TASK}\.predict", rf"{head}.\g<task>"),
        module(rf"preliminary\.{_TASK}\.combine", rf"{mix}.\g<task>.0"),
    ]
    for i in range(2):
        name = rf"{_DECODER}.preliminary_decoder.\g<task>.{i}"
        rules += conv_norm(rf"preliminary\.{_TASK}\.blocks\.{i}", name, ".conv", ".bn1")
    return rules


def _stage(k: int, places: Sequence[int]) -> list[Rule]:
    """places: where each of our tasks stands in the file."""
    own, name = rf"stages\.{k}", f"{_DECODER}.invpt.invpt_stages.{k}"
    block, attention = rf"{own}\.block", f"{name}.blocks.0.attn"
    rules = [
        module(rf"{block}\.{part}", f"{name}.blocks.0.{part}") for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
    ]
    for ours, theirs in (("query", "proj_q"), ("key", "proj_k"), ("value", "proj_v"), ("project", "proj")):
        rules.append(module(rf"{block}\.attention\.{ours}", f"{attention}.{theirs}"))
    rules.append(module(rf"{block}\.attention\.mix", f"{attention}.fuse_attn"))
    for i, place in enumerate(places):
        halved = f"{attention}.conv_proj_q.{place}"
        rules.append(module(rf"{block}\.attention\.halve\.{i}\.conv", f"{halved}.conv"))
        rules.append(module(rf"{block}\.attention\.halve\.{i}\.norm", f"{halved}.bn"))
        for layer in (0, 1, 3, 4):  # theirs begin with the resizing
            rules.append(module(rf"{own}\.up\.{i}\.{layer}", f"{name}.patch_embed.{place}.proj.{layer + 1}"))
        rules.append(module(rf"{own}\.widen\.{i}", f"{_DECODER}.invpt.redu_chan.{k}.{place}"))
    return rules


def _last() -> list[Rule]:
    name = rf"{_DECODER}.invpt.mt_proj.\g<task>"
    mean = (f"{name}.1.running_mean", f"{name}.0.bias")
    return [
        module(rf"mix\.{_TASK}\.0", f"{name}.0"),
        Rule(rf"mix\.{_TASK}\.1\.running_mean", mean, lambda mean, bias: mean.double() - bias.double()),
        module(rf"mix\.{_TASK}\.1", f"{name}.1"),
        Rule(r"heads\.sal\.(weight|bias)", (r"heads.sal.linear_pred.\1",), of_two_classes),
        module(rf"heads\.{_TASK}", r"heads.\g<task>.linear_pred"),
    ]


def _combined_weight(mix: Tensor, predict: Tensor) -> Tensor:
    """mix (out, features + 2, 1, 1) of features and two logits, these predict (2, features, 1, 1) of the features."""
    if predict.shape[:1] != (2,):
        return mix
    features, first, second = mix.double().split([mix.shape[1] - 2, 1, 1], 1)
    return torch.cat([features + (first + second) * predict[0].double(), second], 1)


def _combined_bias(bias: Tensor, mix: Tensor, predict: Tensor) -> Tensor:
    """predict: the bias (2) of the logits."""
    if predict.shape[:1] != (2,):
        return bias
    return bias.double() + mix.double()[:, -2:].sum((1, 2, 3)) * predict[0].double()


# ---- what a run must be --------------------------------------------------------------------------------------------


def problems(file: Checkpoint, run: ResolvedRun) -> Iterator[str]:
    """What of the run isn't the file's, as its shapes tell it."""
    widths = {value.shape[1] for name, value in file.tensors.items() if _is_head(name) and value.dim() == 4}
    given = width_of(run)
    if widths and widths != {given}:
        yield f"options.width is {given}, {', '.join(map(str, sorted(widths)))} in the file; set it so"
    count, grid = _positions(file), _grid(run.training.input_size)
    size = list(run.training.input_size)
    released = [(name, list(each)) for name, each in SIZES.items() if math.prod(_grid(each)) == count]
    for name, each in released:
        if _grid(each) != grid:
            yield f"training.input_size is {size}, {each} in the released code for {name}; set it so"
    if count is not None and not released and math.prod(grid) != count:
        yield (
            f"its embeddings are of {count} positions, training.input_size {size} has {grid[0]}x{grid[1]}; set it to "
            "the size that the file was trained with"
        )


def notes(file: Checkpoint, run: ResolvedRun) -> tuple[str, ...]:
    """What the file's weights don't tell: which side of its grid of positions is which."""
    count, (rows, columns) = _positions(file), _grid(run.training.input_size)
    if count is None or any(math.prod(_grid(size)) == count for size in SIZES.values()):
        return ()
    return (
        f"its {count} positions are taken for {rows} rows of {columns}, as training.input_size has them: the weights "
        "don't tell, and scores that are far too low mean that they are others",
    )


def width_of(run: ResolvedRun) -> int:
    """Channels of the run's preliminary features."""
    width = run.options.get("width", names.ARCHITECTURE_OPTIONS[run.architecture]["width"][0])
    assert isinstance(width, int)
    return width


def _is_head(name: str) -> bool:
    return name.startswith(f"{_DECODER}.intermediate_head.") and name.endswith(".weight")


def _positions(file: Checkpoint) -> int | None:
    """How many places of an image the file has embeddings for; None where that can't be said."""
    found = file.tensors.get(POSITIONS)
    return found.shape[1] - 1 if found is not None and found.dim() == 3 else None  # the first is the class token's


def _grid(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of patches of an image (H, W), which is enlarged to multiples of 32."""
    rows, columns = (math.ceil(side / 32) * 32 // PATCH for side in size)
    return rows, columns
