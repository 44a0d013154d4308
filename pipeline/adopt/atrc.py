"""The names of atrc (commit 76d8055), the released code of ATRC, as Lightning saves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.adopt.rules import Rule, Rules, Unused, attention, backbone, conv_norm, in_order, module, of_two_classes
from pipeline.core.errors import DataError

UNUSED = (
    Unused(r"criterion\..+", "what losses are computed with"),
    Unused(r"metrics_dict\..+", "the state of metrics"),
)
LOCAL = (
    "local contexts have the same tensors as global ones, so the names can't tell: it is taken for a network of global "
    "contexts (GlobalRelationalContextHead), and scores far below the published ones mean that it is none"
)
_TASK = r"(?P<task>\w+)"


def atrc(tasks: Sequence[str], theirs: Sequence[str], channels: int) -> Rules:
    """Global contexts between all tasks. theirs: the order of the file. channels: of a task's features."""
    order = in_order(tasks, theirs, channels // 2)
    refined, pair = "head.atrc_module", r"\g<task>.\g<source>"
    rules = [
        backbone(),
        *conv_norm(rf"features\.{_TASK}", r"head.bottleneck.\g<task>", ".conv", ".bn"),
        *attention(rf"refine\.{_TASK}\.pooling\.(?P<source>\w+)", f"{refined}.cp_blocks.{pair}"),
        *conv_norm(rf"refine\.{_TASK}\.project", rf"{refined}.out_proj.\g<task>", ".conv", ".bn", None, order),
        *conv_norm(rf"refine\.{_TASK}\.fuse", rf"{refined}.bottleneck.\g<task>.0", ".conv", ".bn"),
        Rule(r"heads\.sal\.(weight|bias)", (r"head.final_logits.sal.\1",), of_two_classes),
        module(rf"heads\.{_TASK}", r"head.final_logits.\g<task>"),
    ]
    return Rules(tuple(rules), UNUSED, (LOCAL,))


def check_contexts(names: Iterable[str], tasks: Sequence[str], what: str) -> None:
    """Raise DataError for contexts other than the global one between every pair, as far as names tell them."""
    names = set(names)
    if any(name.startswith("head.aux_") for name in names):
        raise DataError(
            f"{what}: it has label contexts (head.aux_logits), as the search chose them or as one of the fixed heads "
            "has them; here every pair of tasks has the global context, so only GlobalRelationalContextHead fits"
        )
    pairs = [f"{target}.{source}" for target in tasks for source in tasks]
    cut = [pair for pair in pairs if not any(name.startswith(f"head.atrc_module.cp_blocks.{pair}.") for name in names)]
    if cut:
        raise DataError(
            f"{what}: it has no context from {cut[0].partition('.')[2]} to {cut[0].partition('.')[0]} "
            f"({len(cut)} of {len(pairs)} pairs have none); here every pair has the global one"
        )
