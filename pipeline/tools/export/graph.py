"""A network as a graph of operators: torch.export, once, for both kinds of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.fx.experimental._config as symbolic_shapes
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.value_ranges import ValueRanges

from pipeline.core.errors import DataError
from pipeline.tasks import get_task
from pipeline.tools.export.free_sizes import free_form, free_functions
from pipeline.tools.export.model import Model
from pipeline.tools.export.sizes import MULTIPLE, Run, Sizes, find_sizes, fixed, problems

INPUT = "image"
BATCH = 1024  # images at most
_FOLLOWED = (320, 352)  # more than one window at every scale, and two sides that no guard takes to be equal
_MOST = 2048  # pixels a side that the tracer reckons with; what a file takes is less: see `Sizes`


@dataclass(frozen=True)
class Graph:
    """An exported program, and the sizes for which it was compared with the network."""

    program: ExportedProgram
    sizes: Sizes
    tasks: tuple[str, ...]

    @property
    def outputs(self) -> list[str]:
        """Their names, in order: each task's decoded map, then each task's raw prediction."""
        return [*self.tasks, *(f"{task}_raw" for task in self.tasks)]


class Deployed(nn.Module):
    """A network with what stands before and behind it: normalisation and decoding."""

    def __init__(self, model: Model, network: nn.Module):
        super().__init__()
        self.tasks = model.tasks
        self.network = network
        self.register_buffer("mean", torch.tensor(model.config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(model.config.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) float32 RGB in 0..1 -> a decoded map (B, C, H, W) a task: class indices are uint8 with
        C = 1, all else is float32 in the label's units; then, in the same order, what the network itself said."""
        final = self.network((image - self.get_buffer("mean")) / self.get_buffer("std")).final
        raw = [final[task] for task in self.tasks]
        return (*(get_task(task).decode(x) for task, x in zip(self.tasks, raw, strict=True)), *raw)


def export_graph(model: Model) -> Graph:
    """Export for free sizes and batches where that computes what the network does, else for the training's size.

    Raises DataError for a network of which torch.export makes no graph, with the reason.
    """
    deployed = Deployed(model, free_form(model.network))
    sizes, reason = None, ""
    if not any(side % MULTIPLE for side in model.input_size):
        try:
            program = _follow(deployed, _FOLLOWED, free=True)
            sizes, reason = find_sizes(model, unguarded(program))
        except AttributeError:  # another torch, or an error of ours: no property of the network
            raise
        except Exception as error:  # torch.export raises what the code it follows raises, and errors of its own
            reason = _first_line(error)
    else:
        reason = f"the training's size is no multiple of {MULTIPLE}"
    if sizes is None:
        program, sizes = _export_fixed(model, deployed, reason)
    _guard(program, sizes)
    return Graph(program, sizes, model.tasks)


def _export_fixed(model: Model, deployed: Deployed, reason: str) -> tuple[ExportedProgram, Sizes]:
    try:
        program = _follow(deployed, model.input_size, free=False)
    except Exception as error:
        raise DataError(
            f"{model.config.name}: torch.export makes no graph of {model.config.architecture} on "
            f"{model.config.backbone} ({_first_line(error)}); export it as a folder"
        ) from None
    if wrong := next(problems(model, unguarded(program), [model.input_size]), None):
        raise DataError(f"{model.config.name}: its graph is not the network ({wrong}); export it as a folder")
    return program, fixed(model.input_size, reason)


def _follow(deployed: Deployed, size: tuple[int, int], free: bool) -> ExportedProgram:
    """The graph of the network for batches of any size, and of images of any multiple of 32, or of one size."""
    shapes: dict[int, object] = {0: Dim("batch", min=1, max=BATCH)}
    if free:
        rows, columns = (Dim(name, min=1, max=_MOST // MULTIPLE) for name in ("rows", "columns"))
        shapes |= {2: MULTIPLE * rows, 3: MULTIPLE * columns}
    before = symbolic_shapes.backed_size_oblivious
    symbolic_shapes.backed_size_oblivious = True  # a side of 1 is a side like any other, and so is a batch of one
    try:
        with torch.no_grad(), free_functions():
            return torch.export.export(deployed, (torch.rand(2, 3, *size),), dynamic_shapes=(shapes,), strict=False)
    finally:
        symbolic_shapes.backed_size_oblivious = before


def unguarded(program: ExportedProgram) -> Run:
    """What the graph computes, whatever torch.export takes it to hold for: a comparison is to find that out."""
    constraints = program.range_constraints  # these are checked all the same
    for symbol, bounds in list(constraints.items()):
        constraints[symbol] = ValueRanges(1, bounds.upper)
    module = program.module(check_guards=False)

    @torch.inference_mode()
    def run(image: Tensor) -> Sequence[Tensor]:
        found: Sequence[Tensor] = module(image)
        return found

    return run


def _guard(program: ExportedProgram, sizes: Sizes) -> None:
    """Let the program refuse, in every process that loads it, what it was not compared for.

    torch.export's own guards are those of memory layouts at one size: they refuse most of what the graph is right for.
    """
    guards = []
    for axis, low, high in zip((2, 3), sizes.smallest, sizes.largest, strict=True):
        side = f"L['{INPUT}'].size()[{axis}]"
        guards += [f"{side} >= {low}", f"{side} <= {high}", f"({side} % {sizes.multiple}) == 0"]
    program._guards_code = guards


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
