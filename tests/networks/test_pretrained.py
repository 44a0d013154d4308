"""Pretrained weights: whole or not at all, under any naming, without running code from a file."""

from __future__ import annotations

import argparse
import re

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch

from pipeline.core.errors import TrainingError
from pipeline.networks.pairing import LoadReport
from pipeline.networks.registry import Backbone, build
from pipeline.networks.saved_weights import save_weights

pytestmark = pytest.mark.slow

SMALL = "hrnet_w18_small"
RESNET = "test_resnet"
VIT = "vit_tiny_patch16_224"
TASKS = {"semseg": 5, "depth": 1}


def classifier_state(name, **options):
    torch.manual_seed(3)
    return timm.create_model(name, **({"num_classes": 7} | options)).state_dict()


def assert_loaded(backbone, state):
    """Every tensor is that of the classifier. timm's extractors rename "stages.0" to "stages_0", or keep a `model`."""
    for key, value in backbone.net.state_dict().items():
        names = [key, key.replace("_", ".", 1), key.removeprefix("model.")]
        assert torch.equal(value, next(state[name] for name in names if name in state)), key


def scrambled(state):
    """The same tensors in the same order under another library's names."""
    return {f"_x{i}.{key.split('.')[-1]}": value for i, (key, value) in enumerate(state.items())}


# ---- files that fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", [SMALL, "convnext_atto", VIT])
def test_weights_from_a_file(tmp_path, name, suffix):
    state, path = classifier_state(name), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    backbone = Backbone(name, str(path))
    report = backbone.load_report
    assert len(report.matched) == len(backbone.net.state_dict()) and not report.missing and report.by == "name"
    assert any("head" in key or "classifier" in key for key in report.unexpected)
    assert_loaded(backbone, state)


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


WRAPPINGS = {
    "parallel": lambda state: {"state_dict": under("module.", state), "epoch": 3},
    "compiled": lambda state: {"model": under("_orig_mod.", state)},
    "options": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "trained beside a head": lambda state: under("encoder.", state) | {"head.weight": torch.zeros(3, 3)},
    "self-supervised": lambda state: {"teacher": under("backbone.", state) | {"head.mlp.0.weight": torch.zeros(9)}},
    "optimizer": lambda state: {
        "optimizer": {"state": {i: {"exp_avg": value} for i, value in enumerate(state.values())}},
        "state_dict": state,
    },
    "deep": lambda state: {"ckpt": {"nets": {"student": under("module.backbone.", state)}}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_are_searched_for_the_backbone(tmp_path, wrapping):
    state, path = classifier_state(RESNET), tmp_path / "weights.pth"
    torch.save(WRAPPINGS[wrapping](state), path)
    backbone = Backbone(RESNET, str(path))
    assert_loaded(backbone, state)
    assert set(backbone.load_report.unexpected) >= {"fc.weight", "fc.bias"}
    assert not [name for name in backbone.load_report.unexpected if "exp_avg" in name]


@pytest.mark.parametrize("name", [RESNET, VIT])
def test_a_trained_network_of_ours_can_be_the_start_of_another(tmp_path, name):
    trained, path = build("multi_task", backbone=name, tasks=TASKS), tmp_path / "weights.safetensors"
    save_weights(trained, path)
    backbone = Backbone(name, str(path))
    state = trained.backbone.net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in backbone.net.state_dict().items())
    assert len(backbone.load_report.matched) == len(state)


def test_a_file_without_counters_or_in_half_precision_is_whole(tmp_path):
    state, path = classifier_state(SMALL), tmp_path / "weights.safetensors"
    floats = {key: value.half() for key, value in state.items() if value.is_floating_point()}
    safetensors.torch.save_file(floats, path)
    backbone = Backbone(SMALL, str(path))
    assert not backbone.load_report.missing
    assert all(p.dtype == torch.float32 for p in backbone.parameters())
    assert torch.equal(backbone.net.conv1.weight, state["conv1.weight"].half().float())


def test_the_pyramid_is_new_and_no_missing_part(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(classifier_state(VIT, num_classes=0), path)  # as DINO has it: no head, which nobody misses
    torch.manual_seed(1)
    first = Backbone(VIT, str(path))
    torch.manual_seed(2)
    second = Backbone(VIT, str(path))
    assert first.load_report == second.load_report and not first.load_report.unexpected
    assert torch.equal(first.net.model.pos_embed, second.net.model.pos_embed)
    assert not torch.equal(first.pyramid[0][0].weight, second.pyramid[0][0].weight)


# ---- other names, other sizes ------------------------------------------------------------------------------


def test_position_embeddings_are_resampled_as_timm_does(tmp_path):
    state, path = classifier_state("vit_tiny_patch16_384", num_classes=1000), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    backbone = Backbone(VIT, str(path))
    theirs = timm.create_model(VIT, pretrained=True, pretrained_cfg_overlay={"file": str(path)}).state_dict()
    assert backbone.load_report.by == "timm's conversion"
    assert backbone.net.model.pos_embed.shape == (1, 1 + 14 * 14, 192) != state["pos_embed"].shape
    assert_loaded(backbone, theirs)


def authors_convnext(state):
    """The names that ConvNeXt's authors gave."""
    changes = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ]
    renamed = {}
    for key, value in state.items():
        for pattern, new in changes:
            key = re.sub(pattern, new, key)
        renamed[key] = value
    return renamed


def authors_dinov2(state):
    """DINOv2's files have a token for training."""
    return state | {"mask_token": torch.zeros(1, 192)}


def authors_registers(state):
    """Those with registers also have a position for the class token, which timm adds to that token."""
    renamed = {key.replace("reg_token", "register_tokens"): value for key, value in state.items()}
    positions = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], 1)
    return renamed | {"mask_token": torch.zeros(1, 384), "pos_embed": positions}


@pytest.mark.parametrize(
    ("name", "rename", "by"),
    [
        ("convnext_atto", authors_convnext, "timm's conversion"),
        (VIT, authors_dinov2, "name"),
        ("vit_small_patch14_reg4_dinov2", authors_registers, "timm's conversion"),
    ],
)
def test_the_authors_own_files(tmp_path, name, rename, by):
    state, path = classifier_state(name), tmp_path / "weights.pth"
    torch.save({"model": rename(state)}, path)
    backbone = Backbone(name, str(path))
    assert backbone.load_report.by == by
    assert_loaded(backbone, state)


def test_weights_under_other_names_are_matched_by_order(tmp_path):
    name = "tf_efficientnet_lite0"
    state, path = timm.create_model(name).state_dict(), tmp_path / "port.pth"
    torch.save(scrambled(state), path)
    backbone = Backbone(name, str(path))
    assert backbone.load_report.by == "order"
    assert all(torch.equal(value, state[key]) for key, value in backbone.net.state_dict().items())


# ---- files that do not fit ---------------------------------------------------------------------------------


def drop_a_layer(state):
    return {k: v for k, v in state.items() if not k.startswith("stage4.0.branches.3.")}


def drop_one_tensor(state):
    return {k: v for k, v in state.items() if k != "layer1.0.bn1.running_var"}


def other_model(state):
    return timm.create_model("regnetx_002").state_dict()


def other_order(state):
    return dict(reversed(scrambled(state).items()))


@pytest.mark.parametrize("damage", [drop_a_layer, drop_one_tensor, other_model, other_order])
def test_weights_that_would_leave_a_part_random_are_refused(tmp_path, damage):
    path = tmp_path / "weights.pth"
    torch.save(damage(classifier_state(SMALL)), path)
    with pytest.raises(TrainingError, match="would stay random"):
        build("multi_task", backbone=SMALL, tasks=TASKS, pretrained=str(path))


def test_tensors_of_another_shape_are_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(classifier_state(RESNET) | {"layer4.0.conv2.weight": torch.zeros(8, 8, 3, 3)}, path)
    says = r"1 of \d+ tensors .* \(layer4.0.conv2.weight\).* is \(8, 8, 3, 3\), not \(96, 96, 3, 3\)"
    with pytest.raises(TrainingError, match=says):
        Backbone(RESNET, str(path))


def test_a_file_that_holds_the_backbone_twice_is_refused(tmp_path):
    state, path = classifier_state(RESNET), tmp_path / "weights.pth"
    torch.save({"student": under("module.backbone.", state), "teacher": under("backbone.", state)}, path)
    with pytest.raises(
        TrainingError, match=r"2 times, under 'student.module.backbone.' and 'teacher.backbone.'; keep one"
    ):
        Backbone(RESNET, str(path))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("none.pth", None, "there is no file"),
        ("weights.zip", b"x", "allowed: .safetensors, .pth"),
        ("weights.pth", b"not a checkpoint", "cannot be read: it is damaged"),
        ("weights.pth", b"", "cannot be read"),
        ("weights.safetensors", b"not a checkpoint", "cannot be read"),
    ],
)
def test_unreadable_weights_are_one_clear_message(tmp_path, file, content, says):
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=says):
        Backbone(SMALL, str(path))


@pytest.mark.parametrize("content", [[torch.zeros(3)], torch.zeros(3), {"epoch": 3}, {}])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(TrainingError, match="holds no tensors by name"):
        Backbone(SMALL, str(tmp_path / "weights.pth"))


class Payload:
    """What an attacker would write."""

    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"weights": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(TrainingError, match=r"cannot be read: .*could run code \(.*print\).*state dict alone"):
        Backbone(SMALL, str(tmp_path / "weights.pth"))
    assert "ran" not in capsys.readouterr().out


def test_the_report_is_one_line():
    report = LoadReport(("a", "b"), (), ("head.weight", "head.bias", "x", "y"), "order")
    assert str(report) == (
        "2 tensors loaded (matched by order), 0 missing, 4 in the file not used (head.weight, head.bias, x, ...)"
    )


# ---- timm's hub --------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub's real client without a network, its cache in an empty folder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (SMALL, r"model\.safetensors of the hub's repository 'timm/hrnet_w18_small\.gluon_in1k'"),
        (f"{VIT}.augreg_in21k", rf"model\.safetensors of the hub's repository 'timm/{VIT}\.augreg_in21k'"),
    ],
)
def test_an_unreachable_hub_says_which_file_to_bring(hub_cache, name, file):
    with pytest.raises(TrainingError, match=f"bring {file} .*set pretrained to its path .*HF_HOME.*false") as caught:
        Backbone(name, pretrained=True)
    assert "\n" not in str(caught.value)


def test_a_file_in_the_hubs_cache_is_used(hub_cache):
    state = classifier_state(SMALL, num_classes=1000)
    repository = hub_cache / "models--timm--hrnet_w18_small.gluon_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    safetensors.torch.save_file(state, repository / "snapshots" / ("0" * 40) / "model.safetensors")
    backbone = Backbone(SMALL, pretrained=True)
    assert_loaded(backbone, state)
    assert set(backbone.load_report.unexpected) >= {"classifier.weight", "classifier.bias"}


def test_a_model_that_timm_has_no_weights_of():
    with pytest.raises(TrainingError, match=r"timm has no weights of 'mnasnet_050'.*path of a file"):
        Backbone("mnasnet_050", pretrained=True)
