"""Whether runs of ours compare with published rows (`published_rows.py`), and if not, why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.comparison.published_rows import SETTINGS as SETTINGS
from pipeline.comparison.published_setting import differences, text
from pipeline.core import names
from pipeline.data.store import DatasetInfo
from pipeline.params.schema import Evaluation, ResolvedRun

HRNET18 = "hrnet_w18_small_v2"
IMAGENET = "ms_in1k"  # Microsoft's hrnet_w18_small_model_v2.pth, which the released codes start from
DEFAULT_TAG = "gluon_in1k"  # what timm takes for a name without a tag

PROTOCOL = (
    "Scored as published, but for what follows. A class map is brought to the label's size by the pixel that its "
    "centre falls on; released codes take the one at its corner, half a pixel off. An image that shrinks is averaged "
    "over the area of each new pixel; released codes sample it (cubic, as ours where it grows). In training, pixels "
    "that a rotation or a zoom brings in from outside carry no label; in released code for PASCAL-Context they are "
    "class 0, no edge and not salient. Predictions are not rounded to 8 bits before they are scored. Scores are of the "
    "last weights. odsF comes from an implementation of our own, without MATLAB."
)


def verdict(runs: Sequence[ResolvedRun], evaluation: Evaluation, info: DatasetInfo) -> str:
    """Whether these runs, a line of the report, compare with published rows: yes and with which, or no and why not."""
    setting = SETTINGS[info.dataset]
    reasons = dict.fromkeys(why for run in runs for why in not_comparable_because(run, evaluation, info))
    if reasons:
        return f"no: {'; '.join(reasons)}"
    comparable = [row for row in setting.rows if not list(row.not_comparable_because(setting))]
    same = [f"{row.method} of {row.source}" for row in comparable if any(row.is_of(run) for run in runs)]
    return f"yes: as {'; '.join(same)}" if same else "yes, but no such row is of this network and these tasks"


def not_comparable_because(run: ResolvedRun, evaluation: Evaluation, info: DatasetInfo) -> Iterator[str]:
    """What keeps a run, on this data, from being compared with published rows; nothing where it can be."""
    if not info.published:
        counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
        yield f"not the whole published dataset, but {counts} samples"
    if network := SETTINGS[info.dataset].network:
        yield f"{run.training.backbone}, where all rows have {network}"
        return
    if run.adopted:
        yield "adopted, trained elsewhere: its recipe isn't known here"
        return
    yield from _other_start(run.training.backbone, run.training.pretrained)
    published = dict(SETTINGS[info.dataset].recipe(run.architecture, frozenset(run.all_tasks)))
    weights = published["task_weights"]
    published["task_weights"] = {task: weights[task] for task in run.loss_weights} if len(run.all_tasks) > 1 else {}
    yield from differences(run.training.model_dump() | {"task_weights": run.loss_weights}, published)
    for option, value in run.options.items():
        released = names.ARCHITECTURE_OPTIONS[run.architecture][option][0]
        if value != released:
            yield f"{option} {text(value)} instead of {text(released)}"
    if run.balancing.method != names.FIXED:
        yield f"balanced by {run.balancing}, not by fixed weights"
    if evaluation.select_on:
        yield "a tenth of the training split was kept out to choose the epoch"


def _other_start(backbone: str, pretrained: bool | str) -> Iterator[str]:
    """What is not the published backbone with the published ImageNet weights."""
    model, _, tag = backbone.partition(".")
    if model != HRNET18:
        yield f"backbone {model} instead of {HRNET18}"
    if pretrained is False:
        yield "random initialisation instead of ImageNet weights"
    elif pretrained is not True:
        yield f"weights of a file ({pretrained}), whose origin is not known, instead of timm's {HRNET18}.{IMAGENET}"
    elif model == HRNET18 and tag != IMAGENET:
        named = tag or f"{DEFAULT_TAG}, which timm takes for a name without a tag,"
        yield f"ImageNet weights {named} instead of {IMAGENET}, with which the published networks began"
