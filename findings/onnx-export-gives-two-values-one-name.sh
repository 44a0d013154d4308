#!/usr/bin/env bash
# torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0: a network that normalises its input by a buffer `mean`
# and takes a mean somewhere. torch.onnx.export(optimize=False) names both the buffer and the operator's result `mean`,
# saves the file without a word, and no runtime loads it: names in ONNX are unique. optimize=True, which is said to make a
# graph smaller, is what renames them; so is NameFixPass of onnx_ir, which a converter without optimisation needs.
#
# Seen:
#   optimize=False: values mean, sub, val_0, val_1, val_2, mean; twice: mean; Fail
#   optimize=True: twice: nothing; loads
#   optimize=False, then NameFixPass: twice: nothing; loads
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2> /dev/null
env/bin/uv pip install --quiet --python env/bin/python torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
env/bin/python -W ignore - 2> /dev/null <<'P' | tee seen
import onnx_ir.passes.common as passes
import onnxruntime
import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))

    def forward(self, image):
        return (image - self.mean).mean((2, 3), keepdim=True)


def look(what, program):
    graph = program.model_proto.graph
    values = [each.name for each in graph.initializer] + [name for node in graph.node for name in node.output]
    twice = sorted({name for name in values if values.count(name) > 1})
    shown = f" values {', '.join(values)};" if twice else ""
    program.save("network.onnx")
    try:
        onnxruntime.InferenceSession("network.onnx")
        ends = "loads"
    except Exception as error:
        ends = type(error).__name__
    print(f"{what}:{shown} twice: {', '.join(twice) or 'nothing'}; {ends}")


def export(optimize):
    image = torch.rand(2, 3, 8, 8)
    return torch.onnx.export(Network(), (image,), dynamo=True, optimize=optimize, verbose=False)


look("optimize=False", export(False))
look("optimize=True", export(True))
fixed = export(False)
passes.NameFixPass()(fixed.model)
look("optimize=False, then NameFixPass", fixed)
P
grep -qx "optimize=False: values mean, sub, val_0, val_1, val_2, mean; twice: mean; Fail" seen
grep -qx "optimize=True: twice: nothing; loads" seen
grep -qx "optimize=False, then NameFixPass: twice: nothing; loads" seen
