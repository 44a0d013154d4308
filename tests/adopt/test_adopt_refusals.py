"""What keeps a file from being adopted: named in one line, with the remedy."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.adopt.checkpoint import read_checkpoint
from pipeline.adopt.codes import BACKBONES, CODES, NETWORKS
from pipeline.adopt.network import adopt
from pipeline.core import names as known
from pipeline.core.errors import DataError, ParamsError, PipelineError
from stages.adopt import parser
from tests.support import narrow_hrnet, released_names
from tests.support.adopted import file_of, info_of, run_of

NARROW = {"widths": narrow_hrnet.WIDTHS, "modules": (1, 1, 1), "blocks": 1, "first": (4, 1), "stem": 8}
SIXES = NARROW | {"widths": narrow_hrnet.SIXES}
PAIR = {"semseg": 5, "depth": 1}
FIVE = {"semseg": 5, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}
OUTPUTS = FIVE | PAIR
DEEPLAB = released_names.baseline({"depth": 1}, None)


@pytest.fixture(scope="module")
def baseline() -> dict[str, Tensor]:
    return released_names.random_state(released_names.baseline({"depth": 1}, NARROW))


def refused(tensors, run, info=None, code=None) -> str:
    with pytest.raises(PipelineError) as error:
        adopt(file_of(tensors), run, info or info_of(OUTPUTS), code)
    assert "\n" not in str(error.value) and "checkpoints/file.pth" in str(error.value)
    return str(error.value)


def ones(names: released_names.Names) -> dict[str, Tensor]:
    """A state of which only the names matter."""
    return {name: torch.zeros(shape) for name, shape in names.items()}


# ---- tensors -------------------------------------------------------------------------------------------------


def test_a_tensor_that_is_missing(baseline):
    name = "backbone.stage2.0.branches.1.0.conv1.weight"
    said = refused({key: value for key, value in baseline.items() if key != name}, run_of("single_task", ["depth"]))
    assert f"as run published: it lacks 1 tensor ({name}). Give the run the architecture" in said


def test_tensors_that_nothing_is(baseline):
    more = {f"backbone.incre_modules.{i}.weight": torch.zeros(1) for i in range(5)}
    said = refused(baseline | more, run_of("single_task", ["depth"]))
    first = ", ".join(list(more)[:3])
    assert f"it has 5 tensors that nothing here is ({first} and 2 more)" in said


def test_a_tensor_of_another_shape(baseline):
    name = "backbone.conv1.weight"
    said = refused(baseline | {name: torch.zeros(8, 4, 3, 3)}, run_of("single_task", ["depth"]))
    assert f"1 tensor of another shape ({name} [8, 4, 3, 3] is no backbone.net.conv1.weight [8, 3, 3, 3])" in said


def test_another_number_of_classes():
    state = ones(released_names.baseline(PAIR | {"semseg": 40}, NARROW))
    said = refused(state, run_of("multi_task", PAIR))
    assert "2 tensors of another shape (decoders.semseg.last_layer.3.weight [40, 120, 1, 1] is no heads.semseg" in said
    assert said.endswith("and prepare data with as many classes")


def test_another_backbone(baseline):
    said = refused(baseline, run_of("single_task", ["depth"], backbone="hrnet_w18_small"))
    assert "it lacks" in said and "of another shape" in said


# ---- networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "architecture", "says"),
    [
        ("cross_stitch.layer1.cross_stitch_unit.a.b.param", "cross_stitch", "predicts by a DeepLab head"),
        ("nddr.conv.layer.semseg.0.weight", "nddr_cnn", "nddr_cnn here by HRNet's head from the maps of all stages"),
        ("attention_1.semseg.0.weight", "mtan", "no weights of the one fit the other"),
        ("head.final_logits.semseg.weight", "multi_task", "its head is one 3x3 convolution"),
    ],
)
def test_networks_that_ours_can_not_be(signature, architecture, says):
    backbone = "resnet18" if architecture in known.FROM_SINGLE_TASK else narrow_hrnet.NARROW
    assert says in refused({signature: torch.zeros(1)}, run_of(architecture, PAIR, backbone=backbone))


def test_a_run_of_another_architecture():
    said = refused(ones(released_names.mti_net(list(PAIR), PAIR, NARROW)), run_of("multi_task", PAIR))
    assert "its names are those of mti_net in the code of mti_net, the run's architecture is multi_task" in said
    assert said.endswith("set it to mti_net")


def test_names_of_no_code(baseline):
    said = refused({"encoder.weight": torch.zeros(1)}, run_of("single_task", ["depth"]))
    assert "its names (encoder.weight, ...) are not those of any of the codes sca, mti_net, atrc, invpt" in said
    said = refused(baseline, run_of("single_task", ["depth"]), code="atrc")
    assert "are not those of atrc" in said


def test_every_code_can_be_asked_for_and_every_network_of_it_is_known():
    (choices,) = (action.choices for action in parser()._actions if action.dest == "code")
    assert tuple(choices) == CODES
    assert {network.architecture for network in NETWORKS} - {None} == set(known.ARCHITECTURES)
    assert all(bool(network.rules) != bool(network.refused) for network in NETWORKS)


# ---- what weights don't show -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hrnet_upsampling": "nearest"}, "training.hrnet_upsampling is nearest, bilinear in the released code"),
        ({"normalization": "half"}, "training.normalization is half, imagenet in the released code"),
        ({"options": {"mask": "tasks"}}, "options.mask is tasks, channels in the released code; set it so"),
        ({"auxiliary": ["edge"]}, "its tasks are semseg, depth, the run's semseg, depth, edge; give the run those"),
    ],
)
def test_values_that_would_make_another_function(change, says):
    said = refused(ones(released_names.mti_net(list(PAIR), PAIR, NARROW)), run_of("mti_net", PAIR, **change))
    assert says in said


@pytest.mark.parametrize("backbone", ["resnetblur18", "resnet18d"])
def test_backbones_that_compute_something_else_of_the_same_tensors(backbone):
    run = run_of("single_task", ["depth"], backbone=backbone, options={"head": "aspp"}, output_stride=8)
    said = refused(ones(DEEPLAB), run)
    assert f"training.backbone is {backbone}; the released codes have resnet<depth>, hrnet_w<width>" in said


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50.tv_in1k", "hrnet_w18", "hrnet_w48.ms_in1k", "hrnet_w18_small", "hrnet_w18_small_v2.x"],
)
def test_backbones_of_the_released_codes(name):
    assert BACKBONES.fullmatch(name.partition(".")[0])


def test_options_that_matter_in_training_alone_are_free():
    state = released_names.random_state(released_names.atrc(PAIR, NARROW))
    adopt(file_of(state), run_of("atrc", PAIR, options={"dropout": 0.0}), info_of(OUTPUTS))


@pytest.mark.parametrize(
    ("names", "run", "says"),
    [
        (DEEPLAB, {"backbone": "resnet18", "output_stride": 8}, "options.head: aspp"),
        (DEEPLAB, {"backbone": "resnet18", "options": {"head": "aspp"}},
         "training.output_stride is 32, 8 with such a head"),
        (released_names.baseline({"depth": 1}, NARROW), {"options": {"head": "aspp"}}, "options.head: multi_scale"),
    ],
)  # fmt: skip
def test_heads_and_strides(names, run, says):
    assert says in refused(ones(names), run_of("single_task", ["depth"], **run))


def test_sca_with_tasks_in_another_order_or_auxiliary_ones():
    state = ones(released_names.sca(PAIR, SIXES))
    run = run_of("sequential_attention", ["depth", "semseg"], backbone="hrnet_sixes")
    assert refused(state, run).endswith("give the run tasks: [semseg, depth]")
    run = run_of("sequential_attention", ["semseg"], ["depth"], backbone="hrnet_sixes")
    assert "there are no auxiliary tasks in the released network" in refused(state, run)


def test_numbers_of_tasks_whose_groups_of_channels_cross_borders():
    said = refused(ones(released_names.sca(FIVE, SIXES)), run_of("sequential_attention", FIVE, backbone="hrnet_sixes"))
    assert "with 5 tasks its softmax over neighbouring channels crosses the halves of the coarsest map (48" in said
    state = ones(released_names.mti_net(list(FIVE), FIVE, NARROW))
    order = ["edge", *(task for task in FIVE if task != "edge")]
    assert "crosses the borders of tasks (16 channels, 5 tasks)" in refused(state, run_of("mti_net", order))


def test_contexts_of_atrc_that_are_not_global():
    state, run = ones(released_names.atrc(PAIR, NARROW)), run_of("atrc", PAIR)
    said = refused(state | {"head.aux_logits.semseg.weight": torch.zeros(1)}, run)
    assert "it has label contexts" in said and "GlobalRelationalContextHead" in said
    cut = {name: value for name, value in state.items() if ".cp_blocks.semseg.depth." not in name}
    assert "it has no context from depth to semseg (1 of 4 pairs have none)" in refused(cut, run)


# ---- files -----------------------------------------------------------------------------------------------------


def read(path: Path, sha256: str | None = None) -> str:
    with pytest.raises(DataError) as error:
        read_checkpoint(path, sha256)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


class Config:
    """What a careless code saves beside its network."""


def test_objects_besides_tensors_are_refused_and_run_nothing(tmp_path, monkeypatch):
    torch.save({"model": {"a.weight": torch.zeros(1)}, "config": Config()}, tmp_path / "a.pth")
    said = read(tmp_path / "a.pth")
    assert f"holds objects besides tensors, which could run code: {__name__}.Config" in said
    assert "save its state alone: torch.save(state_dict, FILE)" in said
    torch.save(nn.Linear(1, 1), tmp_path / "b.pth")
    assert "torch.nn.modules.linear.Linear" in read(tmp_path / "b.pth")
    torch.save(Config(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "Config" in read(tmp_path / "old.pth")


def test_an_old_checkpoint_of_lightning_names_a_class(tmp_path, monkeypatch):
    """It keys what a callback kept by the class; nothing of Lightning is needed to read that."""
    parts = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    for part in parts:
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    kind = type("ModelCheckpoint", (), {"__module__": parts[-1]})
    sys.modules[parts[-1]].ModelCheckpoint = kind
    content = {
        "epoch": 3,
        "state_dict": {"head.atrc_module.x": torch.ones(1)},
        "callbacks": {kind: {"best": torch.ones(1)}},
    }
    torch.save(content, tmp_path / "a.ckpt")
    for part in parts:
        monkeypatch.delitem(sys.modules, part)
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert (found.epoch, list(found.tensors)) == (3, ["head.atrc_module.x"])
    assert found.beside == ("callbacks",)


def test_what_stands_beside_the_network_is_left_alone(tmp_path):
    state = {"module.a.weight": torch.ones(2), "module.a.bias": torch.ones(1)}
    best = {"semseg": {"mIoU": np.float64(0.3)}, "count": np.int64(3)}
    content = {"optimizer": {"state": {0: {"step": 1}}}, "model": state, "epoch": 100, "best_result": best}
    torch.save(content, tmp_path / "a.pth.tar")
    found = read_checkpoint(tmp_path / "a.pth.tar", hashlib.sha256((tmp_path / "a.pth.tar").read_bytes()).hexdigest())
    assert list(found.tensors) == ["a.weight", "a.bias"] and found.epoch == 100 and found.ordered
    assert found.beside == ("optimizer", "best_result")
    torch.save(state, tmp_path / "b.pth")
    assert list(read_checkpoint(tmp_path / "b.pth").tensors) == ["a.weight", "a.bias"]
    torch.save(dict(sorted(state.items())), tmp_path / "c.pth")
    assert not read_checkpoint(tmp_path / "c.pth").ordered, "saved anew, by name"
    save_file(state, tmp_path / "d.safetensors")
    assert not read_checkpoint(tmp_path / "d.safetensors").ordered


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"optimizer": {}, "epoch": 3},
            "holds no state of a network, only optimizer, epoch; allowed: a state dict, alone",
        ),
        ({"model": {"a": torch.ones(1), "b": 3}}, "has what is no tensor among them (b)"),
        ([torch.ones(1)], "holds a list, no state of a network by name"),
        ({}, "holds no state of a network, only nothing"),
    ],
)
def test_files_without_a_whole_state(tmp_path, content, says):
    torch.save(content, tmp_path / "a.pth")
    assert says in read(tmp_path / "a.pth")


def test_files_that_are_missing_others_or_damaged(tmp_path):
    path = tmp_path / "a.pth"
    assert "is missing; bring the checkpoint there" in read(path)
    torch.save({"a.weight": torch.ones(100)}, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    said = read(path, "0" * 64)
    assert f"its SHA-256 is {found}, not {'0' * 64}; bring that one, or run `python -m stages.adopt`" in said
    path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged, or no" in read(path)
    (tmp_path / "b.safetensors").write_bytes(b"nothing of the kind")
    assert "is damaged, or no checkpoint" in read(tmp_path / "b.safetensors")
    (tmp_path / "c.pth").write_text("<html>quota exceeded</html>")
    assert "is damaged, or no" in read(tmp_path / "c.pth")
    assert "can't be read" in read(tmp_path)


def test_a_file_that_does_not_fit_leaves_the_errors_of_params_to_params():
    with pytest.raises(ParamsError):
        adopt(file_of(ones(released_names.baseline(PAIR, NARROW))), run_of("single_task", ["depth"]), info_of(OUTPUTS))
