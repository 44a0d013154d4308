"""A network as an ONNX file, which refuses sizes that it was not compared for, whatever runs it.

ONNX has no guards: a graph that was followed for one size runs at others too, and may be wrong in silence. So the file
begins with a few operators that fail by name for a side outside the range.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import DataError
from pipeline.tools.export.checked_file import checked_file
from pipeline.tools.export.config import ModelConfig
from pipeline.tools.export.graph import BATCH, INPUT, Graph
from pipeline.tools.export.model import Model
from pipeline.tools.export.sizes import Sizes, problems, sizes_to_try

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # onnxscript brings onnx_ir


def require_packages() -> None:
    """Raise DataError, with the command that installs them, where a package of the extra `export` is missing."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise DataError(f"an ONNX file takes {', '.join(missing)}: pip install {' '.join(PACKAGES)}")


def write_onnx(graph: Graph, config: ModelConfig, model: Model, file: Path) -> Path:
    """Write the file, compare it with the network in ONNX Runtime at all sizes that `graph` was, and see it refuse.

    Raises DataError where it can't be converted or written, and where it doesn't predict what the network does.
    """
    import onnx

    proto = converted(graph, config)
    _refuse_other_sizes(proto, graph.sizes)
    _describe(proto, graph, config)
    onnx.checker.check_model(proto)
    with checked_file(file) as partial:
        onnx.save(proto, partial)
        _compare(partial, graph.sizes, model)
    return file


def converted(graph: Graph, config: ModelConfig) -> onnx.ModelProto:
    """The graph in ONNX, simplified. Raises DataError where it can't be converted; config: whose name that says."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.program,
                dynamo=True,
                optimize=False,
                verbose=False,
                input_names=[INPUT],
                output_names=graph.outputs,
            )
            assert program is not None
            _simplify(program)
    except Exception as error:  # the converter raises errors of its own, of onnxscript and of what they call
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise DataError(
            f"{config.name}: {config.architecture} can't be converted to ONNX ({reason}); use --to pt2"
        ) from None
    proto: onnx.ModelProto = program.model_proto
    return proto


def _simplify(program: torch.onnx.ONNXProgram) -> None:
    """Fold constants, and leave out what is unused or computed twice.

    The converter's own `optimize=True` also looks for patterns, through the whole graph at every node: thirty times the
    time, for a file that ONNX Runtime, which has patterns of its own, runs no faster.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer

    passes.InlinePass()(program.model)
    optimizer.fold_constants(program.model)
    for simplify in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),  # a buffer and an operator may have one name
    ):
        simplify(program.model)


def _refuse_other_sizes(proto: onnx.ModelProto, sizes: Sizes) -> None:
    """Put operators before all others that fail, by a name that says why, for a side out of range.

    They reshape one number to 1 + (how many sides are wrong), which no runtime can where any is, and multiply the image
    by it: 1.0, so nothing changes where all are right.
    """
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: Any, kind: type = np.int64) -> str:
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), f"sizes.{name}"))
        return f"sizes.{name}"

    name = f"image_must_be_{sizes}".replace(" ", "_").replace(",", "")
    low, high, multiple = (
        constant("smallest", sizes.smallest), constant("largest", sizes.largest), constant("multiple", [sizes.multiple])
    )  # fmt: skip
    zero, one = constant("zero", [0]), constant("one", [1])
    checked = f"{INPUT}.checked"
    for node in proto.graph.node:
        for place, used in enumerate(node.input):
            if used == INPUT:
                node.input[place] = checked
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Shape", [INPUT], "sides", {"start": 2, "end": 4}),
        ("Less", ["sizes.sides", low], "small", {}),
        ("Greater", ["sizes.sides", high], "large", {}),
        ("Mod", ["sizes.sides", multiple], "rest", {}),
        ("Greater", ["sizes.rest", zero], "odd", {}),
        ("Or", ["sizes.small", "sizes.large"], "outside", {}),
        ("Or", ["sizes.outside", "sizes.odd"], "wrong", {}),
        ("Cast", ["sizes.wrong"], "wrong_sides", {"to": TensorProto.INT64}),
        ("ReduceSum", ["sizes.wrong_sides", zero], "count", {"keepdims": 1}),
        ("Add", ["sizes.count", one], "shape", {}),
    ]
    nodes = [
        helper.make_node(kind, inputs, [f"sizes.{out}"], f"sizes.{out}", **more) for kind, inputs, out, more in steps
    ]
    unit = constant("unit", [1.0], np.float32)
    nodes += [
        helper.make_node("Reshape", [unit, "sizes.shape"], ["sizes.ok"], name),
        helper.make_node("Mul", [INPUT, "sizes.ok"], [checked], "sizes.checked"),
    ]
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *rest])


def _describe(proto: onnx.ModelProto, graph: Graph, config: ModelConfig) -> None:
    """Put what a reader needs into the file's own metadata."""
    values = {
        "sizes": str(graph.sizes),
        "sizes.smallest": "x".join(map(str, graph.sizes.smallest)),
        "sizes.largest": "x".join(map(str, graph.sizes.largest)),
        "sizes.multiple": str(graph.sizes.multiple),
        "input": "image (B, 3, H, W) float32 RGB in 0..1; normalisation is inside",
        "batch": f"1 to {BATCH}",
        **{f"output.{task}": f"{task} (B, C, H, W): {config.units[task]}" for task in graph.tasks},
        **{f"output.{task}_raw": f"{task} (B, C, H, W): before decoding" for task in graph.tasks},
        "config.json": config.as_json(),
    }
    for name, value in values.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value


def _compare(file: Path, sizes: Sizes, model: Model) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would print what is refused on purpose
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(value) for value in session.run(None, {INPUT: image.numpy()})]

    tried = [sizes.smallest] if sizes.fixed else sizes_to_try(model.input_size, sizes.smallest[0], sizes.largest)
    if wrong := next(problems(model, run, tried), None):
        raise DataError(f"the ONNX file of {model.config.name} is not the network ({wrong}); use --to pt2")
    step = max(sizes.multiple, 32)
    for outside in ((sizes.smallest[0] - 1, sizes.smallest[1]), (sizes.largest[0], sizes.largest[1] + step)):
        try:
            run(torch.zeros(1, 3, *outside))
        except Exception:  # a runtime's own
            continue
        raise DataError(f"the ONNX file of {model.config.name} takes images of {outside}, and must not; use --to pt2")
