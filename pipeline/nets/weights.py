"""Pretrained weights for a backbone, from timm's hub or a file; never loaded partly in silence."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.errors import TrainingError

SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors: `matched` were loaded, `missing` are the backbone's without a counterpart in the
    file, `unexpected` the file's without one in the backbone (a classifier, say). `by`: "name" or "order"."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    by: str = "name"

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors loaded (matched by {self.by}), {len(self.missing)} missing, "
            f"{len(self.unexpected)} in the file not used"
        )


def load_pretrained(net: nn.Module, name: str, pretrained: bool | str) -> LoadReport:
    """Load weights into `net`, the timm feature extractor of the model `name`.

    pretrained: True for timm's hub, or the path of a .safetensors or .pth file with a state dict.
    Raises TrainingError if the weights cannot be had or read, or would leave a part of the backbone random.
    """
    if pretrained is True:
        source, state = f"timm's hub ({name})", _from_hub(name)
    else:
        source, state = str(pretrained), _from_file(Path(pretrained))
    return _load(net, name, state, source)


def _from_hub(name: str) -> dict[str, Tensor]:
    # The classification model is loaded strictly by timm, a feature extractor is not.
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # hub clients raise errors of their own, of many unrelated types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"pretrained: true, but the weights of {name!r} could not be had from timm's hub: {reason} "
            f"Remedy: bring the file of {_hub_file(name)} to this machine and set pretrained to its path, "
            "or set pretrained: false."
        ) from error


def _hub_file(name: str) -> str:
    config = timm.get_pretrained_cfg(name)
    hub_id = getattr(config, "hf_hub_id", None)
    if hub_id and hub_id.endswith("/"):
        hub_id += ".".join(part for part in (config.architecture, config.tag) if part)
    return f"model.safetensors of the hub's repository {hub_id!r}" if hub_id else f"{name}'s weights"


def _from_file(path: Path) -> dict[str, Tensor]:
    if path.suffix not in SUFFIXES:
        raise TrainingError(f"pretrained: {path} has no known ending; allowed: {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise TrainingError(f"pretrained: there is no file {path}. Bring it there, or set pretrained: false.")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrainingError(f"pretrained: {path} cannot be read as a state dict: {reason}") from error
    for wrapper in ("state_dict", "model", "state_dict_ema"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not state:
        raise TrainingError(f"pretrained: {path} holds no tensors by name; expected is a state dict.")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _load(net: nn.Module, name: str, state: dict[str, Tensor], source: str) -> LoadReport:
    own = net.state_dict()
    report, chosen = _match(own, state)
    if not report.matched and (renamed := _rename_by_order(name, state)):
        report, chosen = _match(own, renamed, by="order")
    if report.missing:
        some = ", ".join(report.missing[:3]) + (", ..." if len(report.missing) > 3 else "")
        raise TrainingError(
            f"Weights from {source} do not fit backbone {name!r}: {len(report.missing)} of {len(own)} "
            f"tensors would stay random ({some}); {len(report.matched)} match, {len(report.unexpected)} "
            f"of the file are unknown. Give the weights of timm's {name}, or set pretrained: false."
        )
    net.load_state_dict(chosen, strict=False)
    return report


def _match(own: dict[str, Tensor], state: dict[str, Tensor], by: str = "name") -> tuple[LoadReport, dict]:
    """Pair tensors by name and shape. timm's extractors only rename "stages.0" to "stages_0"."""
    given = {_plain(key): key for key in state}
    chosen, missing = {}, []
    for key, tensor in own.items():
        found = given.get(_plain(key))
        if found is not None and state[found].shape == tensor.shape:
            chosen[key] = state[found]
            del given[_plain(key)]
        elif not key.endswith("num_batches_tracked"):  # a counter that nothing computes with
            missing.append(key)
    return LoadReport(tuple(chosen), tuple(missing), tuple(given.values()), by), chosen


def _plain(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")


def _rename_by_order(name: str, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Give the tensors of another library's port of the same model timm's names, one by one in order.

    Only where both have equally many tensors and every pair agrees in shape and in the last part of its name
    (weight, bias, running_mean, ...); None otherwise.
    """
    model = timm.create_model(name).state_dict()
    if len(model) != len(state):
        model = {k: v for k, v in model.items() if not k.endswith("num_batches_tracked")}
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if len(model) != len(state):
        return None
    pairs = list(zip(model.items(), state.items(), strict=True))
    if any(a.shape != b.shape or k.split(".")[-1] != g.split(".")[-1] for (k, a), (g, b) in pairs):
        return None
    return {k: b for (k, _), (_, b) in pairs}
