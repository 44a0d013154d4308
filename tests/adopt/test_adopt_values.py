"""Tensors that can't be weights, and files that are damaged: refused in a line that names the tensor or the part."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.adopt.checkpoint import read_checkpoint
from pipeline.adopt.network import adopt
from pipeline.core.errors import DataError
from tests.support import narrow_hrnet, released_names
from tests.support.adopted import file_of, info_of, run_of

NARROW = {"widths": narrow_hrnet.WIDTHS, "modules": (1, 1, 1), "blocks": 1, "first": (4, 1), "stem": 8}
CONV, NORM = "backbone.conv1.weight", "backbone.bn1"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return released_names.random_state(released_names.baseline({"depth": 1}, NARROW))


def adopted(tensors: dict[str, Tensor]):
    return adopt(file_of(tensors), run_of("single_task", ["depth"]), info_of({"depth": 1}))


def filled(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """The tensor with one value replaced."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.to(dtype, copy=True)
        changed.view(-1)[3] = value
        return changed

    return change


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (CONV, filled(float("nan")), f"{CONV} has values that are not finite in float32"),
        (CONV, filled(float("inf"), torch.float16), f"{CONV} has values that are not finite in float32"),
        (CONV, filled(1e300, torch.float64), f"{CONV} has values that are not finite in float32"),
        (f"{NORM}.running_var", filled(-0.5), f"{NORM}.running_var has a variance below 0"),
        (CONV, lambda t: t.to(torch.int64), f"{CONV} is int64, where the network has floating numbers"),
        (CONV, lambda t: t > 0, f"{CONV} is bool, where the network has floating numbers"),
        (CONV, lambda t: t.to(torch.complex64), f"{CONV} is complex64, where the network has floating numbers"),
        (CONV, lambda t: t.to(torch.float8_e4m3fn), f"{CONV} is float8_e4m3fn, where the network has floating numbers"),
        (f"{NORM}.num_batches_tracked", lambda t: t.float(),
         f"{NORM}.num_batches_tracked is float32, where the network has integer numbers"),
    ],
)  # fmt: skip
def test_values_that_are_no_weights(state, name, change, says):
    adopted(state)
    with pytest.raises(DataError) as error:
        adopted(state | {name: change(state[name])})
    end = ": these are no weights of it; bring the file as its code saved it"
    assert str(error.value) == f"checkpoints/file.pth as run published: {says}{end}"


def test_a_variance_below_0_that_is_folded_into_a_convolution():
    tensors = released_names.random_state(released_names.baseline({"depth": 1}, None))
    name = "decoder.0.convs.4.2.running_var"
    tensors[name] = filled(-1e-7)(tensors[name])
    run = run_of("single_task", ["depth"], backbone="resnet18", options={"head": "aspp"}, output_stride=8)
    with pytest.raises(DataError, match=re.escape(f"{name} has a variance below 0")):
        adopt(file_of(tensors), run, info_of({"depth": 1}))


def test_the_account_says_where_weights_are_not_float32(state):
    _, adoption = adopted(state)
    assert not any("float32 here" in note for note in adoption.account.notes)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    network, adoption = adopted(half)
    count = sum(value.is_floating_point() for value in state.values())
    assert f"note: {count} tensors are float16 in the file, float32 here" in adoption.lines()
    assert torch.equal(network.state_dict()["backbone.net.conv1.weight"], half[CONV].float())
    _, adoption = adopted(state | {CONV: state[CONV].double()})
    assert "note: 1 tensor is float64 in the file, float32 here" in adoption.lines()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about what it makes here
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: torch.eye(3).to_sparse(), "has the layout sparse_coo"),
        (lambda: torch.eye(3).to_sparse_csr(), "has the layout sparse_csr"),
        (lambda: torch.ones(3, device="meta"), "is on the meta device"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "is quantized"),
    ],
    ids=["coo", "csr", "meta", "quantized"],
)
def test_tensors_that_hold_no_plain_numbers(tmp_path, make, says):
    torch.save({"model": {"a.weight": torch.ones(1), "b.weight": make()}}, tmp_path / "a.pth")
    said = refused(tmp_path / "a.pth")
    assert "has tensors that hold no plain numbers (b.weight " in said and says in said


# ---- files -------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_checkpoint(path)
    said = str(error.value)
    assert said.startswith(str(path)) and "\n" not in said
    return said


def test_a_changed_byte_in_a_zip_checkpoint(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a.weight": torch.arange(64, dtype=torch.float32), "b.weight": torch.ones(2)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(64, dtype=torch.float32).numpy().tobytes()) + 9
    content[place] ^= 1
    path.write_bytes(content)
    assert not torch.load(path)["a.weight"].equal(torch.arange(64.0)), "torch reads it as other weights"
    with zipfile.ZipFile(path) as file:
        (member,) = (each for each in file.namelist() if each.endswith("data/0"))
    assert f"is damaged: the check sum of {member} in it is another;" in refused(path)


def test_a_zip_file_without_its_middle(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a.weight": torch.ones(500)}, path)
    content = path.read_bytes()
    path.write_bytes(content[:300] + content[900:])
    assert "is damaged" in refused(path)


def test_damage_of_the_former_format_is_one_line(tmp_path):
    """Wherever it ends, and whatever byte is another: it is read, or refused in a line."""
    whole = io.BytesIO()
    content = {"model": {"module.a.weight": torch.ones(3), "module.a.bias": torch.ones(1)}, "epoch": 3}
    torch.save(content, whole, _use_new_zipfile_serialization=False)
    path, good = tmp_path / "a.pth", whole.getvalue()
    path.write_bytes(good)
    assert read_checkpoint(path).epoch == 3
    for end in range(len(good)):
        path.write_bytes(good[:end])
        said = refused(path)  # the second, where a name of torch's own is cut
        assert "is damaged, or no" in said or re.search(
            r"holds objects besides tensors.*: \w+(\.\w+)+\. Where", said
        ), end
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x11]) + good[place + 1 :])
        try:
            read_checkpoint(path)
        except DataError as error:
            assert str(error).startswith(str(path)), place


def test_no_memory_is_no_damage(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError

    torch.save({"a.weight": torch.ones(3)}, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(MemoryError):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"epoch": 3}, None),
        ({"epoch": 3, "optimizer": {}}, "beside the network it holds optimizer, which is not looked at"),
        ({"optimizer": {}, "best": 1}, "beside the network it holds optimizer, best, which are not looked at"),
        ({"epoch": "last"}, "beside the network it holds epoch, which is not looked at"),
    ],
)
def test_what_the_account_says_of_the_rest_of_a_file(tmp_path, state, beside, says):
    torch.save({"model": state, **beside}, tmp_path / "a.pth")
    _, adoption = adopt(read_checkpoint(tmp_path / "a.pth"), run_of("single_task", ["depth"]), info_of({"depth": 1}))
    first, *lines = adoption.lines()
    assert ("epoch 3" in first) == (beside.get("epoch") == 3)
    assert [line for line in lines if line.startswith("beside")] == [says] * (says is not None)


def test_a_damaged_safetensors_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a.weight": torch.ones(3)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "is damaged, or no checkpoint" in refused(path)
