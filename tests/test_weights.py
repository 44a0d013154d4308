"""Pretrained weights: whole or not at all, under any naming, without running code from a file."""

import pytest
import safetensors.torch
import timm
import torch

from pipeline.errors import TrainingError
from pipeline.nets import Backbone, build

SMALL = "hrnet_w18_small"
TASKS = {"semseg": 5, "depth": 1}


def classifier_state(name):
    torch.manual_seed(3)
    return timm.create_model(name, num_classes=7).state_dict()


def scrambled(state):
    """The same tensors in the same order under another library's names."""
    return {f"_x{i}.{key.split('.')[-1]}": value for i, (key, value) in enumerate(state.items())}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", [SMALL, "convnext_atto"])  # the second renames "stages.0" to "stages_0"
def test_weights_from_a_file(tmp_path, name, suffix):
    state, path = classifier_state(name), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        safetensors.torch.save_file(state, path)
    backbone = Backbone(name, str(path))
    report = backbone.load_report
    assert len(report.matched) == len(backbone.net.state_dict()) and not report.missing
    assert any("7" in str(state[key].shape) or "classifier" in key for key in report.unexpected)
    for key, value in backbone.net.state_dict().items():
        assert torch.equal(value, state[key if key in state else key.replace("_", ".", 1)])


def test_weights_under_other_names_are_matched_by_order(tmp_path):
    name = "tf_efficientnet_lite0"
    state, path = timm.create_model(name).state_dict(), tmp_path / "port.pth"
    torch.save(scrambled(state), path)
    backbone = Backbone(name, str(path))
    assert backbone.load_report.by == "order"
    assert all(torch.equal(value, state[key]) for key, value in backbone.net.state_dict().items())


def drop_a_layer(state):
    return {k: v for k, v in state.items() if not k.startswith("stage4.0.branches.3.")}


def other_model(state):
    return timm.create_model("resnet18").state_dict()


@pytest.mark.parametrize("damage", [drop_a_layer, other_model])
def test_weights_that_would_leave_a_part_random_are_refused(tmp_path, damage):
    path = tmp_path / "weights.pth"
    torch.save(damage(classifier_state(SMALL)), path)
    with pytest.raises(TrainingError, match="would stay random"):
        build("multi_task", backbone=SMALL, tasks=TASKS, pretrained=str(path))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("none.pth", None, "there is no file"),
        ("weights.zip", b"x", "allowed: .safetensors, .pth"),
        ("weights.pth", b"not a checkpoint", "cannot be read"),
        ("weights.safetensors", b"not a checkpoint", "cannot be read"),
    ],
)
def test_unreadable_weights_are_one_clear_message(tmp_path, file, content, says):
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=says):
        Backbone(SMALL, str(path))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"weights": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(TrainingError, match="cannot be read"):
        Backbone(SMALL, str(tmp_path / "weights.pth"))


def test_an_unreachable_hub_says_which_file_to_bring(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("cannot connect")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(TrainingError, match=r"cannot connect.*hrnet_w18_small\.gluon_in1k.*pretrained: false"):
        Backbone(SMALL, pretrained=True)
