"""Exported graphs: they compute what the network does, for all sizes that they say, and refuse others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import stages.export
from pipeline.networks.sca.attention import WindowBlock, linear_attention
from pipeline.tasks import get_task
from pipeline.tools.export import free_sizes, graph, onnx_file
from pipeline.tools.export.free_sizes import EvenStride, FreeWindowBlock
from pipeline.tools.export.graph import Graph
from pipeline.tools.export.model import Model
from pipeline.tools.export.onnx_file import converted
from pipeline.tools.export.sizes import Sizes, differs, find_sizes, fixed, raw_predictions
from pipeline.tools.export.trained import open_trained, read_saved_model
from stages._entry import run_stage
from tests.support.narrow_hrnet import NARROW
from tests.support.saved_network import put_graph, save_network


@pytest.fixture(autouse=True)
def _seed(in_tmp):
    torch.manual_seed(0)
    put_graph(in_tmp)


def trained(*arguments, **options) -> Model:
    save_network(*arguments, **options)
    return open_trained(read_saved_model(Path("models/net-0")), "cpu")


# ---- forms of parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 14), (8, 3)])
@pytest.mark.parametrize("padding", ["attended", "masked"])
@pytest.mark.parametrize(("shift", "small"), [(0, True), (3, True), (3, False)])
def test_a_window_block_without_branches_is_the_same_function(size, padding, shift, small):
    block = WindowBlock(12, 3, 7, shift, padding, small).eval()
    free = copy.deepcopy(block)
    free.__class__ = FreeWindowBlock
    x = torch.randn(2, *size, 12)
    with torch.no_grad():
        torch.testing.assert_close(free(x), block(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (7, 2, 3), (5, 4, 2)])
def test_a_strided_convolution_without_the_padding_out_of_reach_is_the_same(kernel, stride, padding):
    conv = nn.Conv2d(3, 4, kernel, stride, padding)
    if stands := EvenStride.stands_for(conv):
        free = copy.deepcopy(conv)
        free.__class__ = EvenStride
        x = torch.randn(2, 3, 16, 24)
        assert torch.equal(free(x), conv(x))
    assert stands == (kernel - stride - padding >= 0)


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 4, 4), nn.Conv2d(3, 4, 3, 2, 2, 2)])
def test_other_convolutions_stay(conv):
    assert not EvenStride.stands_for(conv)


def test_linear_attention_of_symbols_is_the_same():
    query, key, value = torch.rand(2, 5, 3, 4), torch.rand(2, 5, 2, 6), torch.randn(2, 7, 2, 6)
    expected = linear_attention(query, key, value)
    torch.testing.assert_close(free_sizes.linear_attention(query, key, value), expected)


# ---- comparison --------------------------------------------------------------------------------------------


def test_what_differs_is_found_raw_and_decoded():
    right = torch.tensor([[1.0, 1.0, 5.0], [1.000001, 0.0, 0.0]]).view(1, 2, 1, 3)
    classes = get_task("semseg").decode(right)
    assert differs("semseg", classes, right * (1 + 1e-5), right) is None
    assert "off by 1.0e-02" in str(differs("semseg", classes, right * 1.01, right))  # no class is another
    assert "decoded, it is not what" in str(differs("semseg", 1 - classes, right, right))
    depth = get_task("depth").decode(right[:, :1])
    assert "decoded, its shape" in str(differs("depth", depth[..., :2], right[:, :1], right[:, :1]))
    assert "its shape is" in str(differs("depth", depth, right, right[:, :1]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_diverged_is_not_exported(value):
    raw = torch.ones(1, 2, 1, 3)
    wrong = raw.clone()
    wrong[0, 0, 0, 0] = value
    classes = get_task("semseg").decode(raw)
    assert "diverged" in str(differs("semseg", classes, wrong, wrong))
    assert "off by" in str(differs("semseg", classes, wrong, raw))


def test_a_graph_that_is_wrong_for_small_maps_begins_where_it_is_right():
    model = trained("multi_task", ["depth", "normals"])

    def run(image):
        raw = [x + (min(image.shape[-2:]) < 64) for x in raw_predictions(model, image)]
        return [*(get_task(task).decode(x) for task, x in zip(model.tasks, raw, strict=True)), *raw]

    assert find_sizes(model, run) == (Sizes((64, 64), (512, 512)), "")
    found, why = find_sizes(model, lambda image: [each * 2 for each in run(image)])
    assert found is None and why.startswith("64x96, 1 images, depth: it is off by")


# ---- files -------------------------------------------------------------------------------------------------


def export(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.export.main, parser=stages.export.parser(), argv=arguments, needs_params=False)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_a_missing_package_is_named_with_the_command(capsys, monkeypatch):
    trained("multi_task", ["depth", "normals"])
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "onnx_of_tomorrow"))
    code, out, err = export(capsys, "net-0", "--to", "onnx")
    assert (code, out) == (2, "")
    assert err == "an ONNX file takes onnx_of_tomorrow: pip install onnx onnx_of_tomorrow\n"


@pytest.mark.slow
def test_files_of_free_sizes_are_the_network_and_refuse_other_sizes(capsys, monkeypatch):
    tasks = ["semseg", "normals"]
    model = trained("multi_task", tasks, NARROW)  # sequential attention takes minutes: benchmarks/export.py
    graphs = []  # one of both files: it takes most of the time

    def exported_once(*arguments, export_graph=graph.export_graph):
        graphs[:] = graphs or [export_graph(*arguments)]
        return graphs[0]

    monkeypatch.setattr(graph, "export_graph", exported_once)
    for kind in ("pt2", "onnx"):
        code, out, err = export(capsys, "net-0", "--to", kind)
        assert (code, out) == (
            0, f"exports/net-0.{kind}\n  takes images of 32x32 to 512x512, multiples of 32\n"
        ), err  # fmt: skip
    image = torch.rand(3, 3, 128, 64)
    outside = [torch.zeros(1, 3, *size) for size in ((33, 64), (64, 544), (0, 64))]

    module = torch.export.load("exports/net-0.pt2").module()
    assert_is_the_network(model, module(image), image)
    for wrong in outside:
        with pytest.raises(AssertionError, match="Guard failed"):
            module(wrong)
    assert_onnx_is_the_network(model, image, outside)


def assert_is_the_network(model: Model, found: Sequence[Tensor], image: Tensor) -> None:
    count, right = len(model.tasks), raw_predictions(model, image)
    for task, decoded, raw, expected in zip(model.tasks, found[:count], found[count:], right, strict=True):
        torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        torch.testing.assert_close(decoded, get_task(task).decode(raw), rtol=1e-4, atol=1e-4)


def assert_onnx_is_the_network(model: Model, image: Tensor, outside: list[Tensor]) -> None:
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession("exports/net-0.onnx")
    assert [each.name for each in session.get_outputs()] == [*model.tasks, *(f"{task}_raw" for task in model.tasks)]
    assert_is_the_network(model, [torch.from_numpy(x) for x in session.run(None, {"image": image.numpy()})], image)
    for wrong in outside:
        with pytest.raises(Exception, match="image_must_be_32x32_to_512x512_multiples_of_32"):
            session.run(None, {"image": wrong.numpy()})
    props = {each.key: each.value for each in onnx.load("exports/net-0.onnx").metadata_props}
    assert props["sizes.largest"] == "512x512" and '"architecture"' in props["config.json"]


class Means(nn.Module):
    """Its buffer has the name that torch gives the result of the operator."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1))

    def forward(self, image):
        values = (image - self.mean).mean((2, 3), keepdim=True)
        return 2 * values, values + 1


def test_values_of_a_file_have_names_of_their_own():
    program = torch.export.export(Means(), (torch.rand(1, 3, 8, 8),))
    proto = converted(Graph(program, fixed((8, 8), "a test"), ("depth",)), None)
    values = [each.name for each in proto.graph.initializer]
    values += [name for node in proto.graph.node for name in node.output]
    assert len(set(values)) == len(values)
    image = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    found, more = session.run(["depth", "depth_raw"], {"image": image})
    expected = (image - np.float32([0.5, 0.25, 0.125])[:, None, None]).mean((2, 3), keepdims=True)
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-5)
    np.testing.assert_allclose(more, expected + 1, rtol=1e-5)


@pytest.mark.slow
def test_a_network_without_a_graph_is_refused_in_a_line(capsys, monkeypatch):
    trained("multi_task", ["depth", "normals"])
    monkeypatch.setattr("pipeline.tools.export.graph._follow", lambda *_, **__: 1 / 0)
    code, _, err = export(capsys, "net-0", "--to", "pt2")
    assert code == 2 and err == (
        "net-0: torch.export makes no graph of multi_task on test_convnext (division by zero); export it as a folder\n"
    )
