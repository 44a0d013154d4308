"""What a network costs for one image: parameters, multiply-accumulates, and memory for the backward pass.

All of it follows from shapes, so nothing is computed: a copy of the network without data runs once on an image without
data. The figures depend on the network and the input size alone, not on device, precision, memory layout or batch size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.core import paths
from pipeline.core.errors import ParamsError
from pipeline.data.store import DatasetInfo
from pipeline.datasets import get_dataset
from pipeline.networks.from_params import build_network
from pipeline.params.schema import Data, ResolvedRun


@dataclass(frozen=True)
class Cost:
    """The cost of one image.

    parameters: numbers in the network, trained or not; without buffers such as batch norm's running statistics.
    macs: multiply-accumulates of one forward pass, auxiliary predictions included, half of what
        `torch.utils.flop_counter` counts: convolutions (padding as if it were image), matrix products, and the two
        products of attention. Not counted: biases, normalisation, activations, softmax, pooling, resizing, products
        of a matrix and a vector.
    activation_bytes: what autograd keeps of a float32 forward pass in training mode for the backward pass: each block
        of memory once, the image and sums of weights included, parameters and buffers excluded. Not counted: the loss,
        gradients, the optimizer's state, and what kernels use meanwhile. It is what torch's CPU kernels keep; a CUDA
        kernel may keep a little more or less, and `MultiScaleHead` on a CPU keeps less by working in bands.
    """

    parameters: int
    macs: int
    activation_bytes: int


def measure(network: nn.Module, input_size: Sequence[int]) -> Cost:
    """The cost of `network` on one image (1, 3, *input_size); `network` and the random state stay as they are.

    Raises ParamsError where the network refuses that size.
    """
    kept: set[torch.UntypedStorage] = set()
    products = _Products()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
        twin = without_data(network).train()
        own = {tensor.untyped_storage() for tensor in _tensors(twin)}
        image = torch.empty(1, 3, *input_size, device="cpu")

        def keep(saved: Tensor) -> None:
            if saved.untyped_storage() not in own:
                kept.add(saved.untyped_storage())

        with products, torch.autograd.graph.saved_tensors_hooks(keep, _no_backward):
            try:
                twin(image)
            except AssertionError as error:  # how timm's fixed-size models say so
                raise ParamsError(f"the network can't take input_size {list(input_size)}: {error}") from error
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, products.flops // 2, sum(storage.nbytes() for storage in kept))


class _Products(TorchDispatchMode):
    """Adds up the floating point operations of every operator that torch has a formula for.

    `torch.utils.flop_counter.FlopCounterMode` does the same and adds them up by module as well, in twice the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def without_data(network: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have a size and no content. To be called in a FakeTensorMode."""
    empty: dict[int, Tensor] = {}
    for tensor in _tensors(network):
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        empty[id(tensor)] = torch.empty(tensor.shape, dtype=dtype, device="cpu", requires_grad=tensor.requires_grad)
    twin = copy.deepcopy(network, empty)  # takes these for what has been copied before
    for layer in twin.modules():
        if isinstance(layer, _BatchNorm):
            layer.register_forward_pre_hook(_no_statistics_of_one_value)
    return twin


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _no_statistics_of_one_value(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Torch refuses to train on one value a channel, which a map of one pixel gives, here where the batch is one."""
    layer.train(inputs[0].numel() > inputs[0].shape[1])


def _no_backward(_: None) -> Tensor:
    raise AssertionError("the pass without data has no backward pass")


def cost_of(run: ResolvedRun, data: Data) -> Cost:
    """The cost of the network of `run` at its input size, without data and without pretrained weights.

    Raises ParamsError where network and input size don't go together, DataError for a bad dataset.yaml.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(run, dataset_info(data))
    try:
        return measure(network, run.training.input_size)
    except ParamsError as error:
        raise ParamsError(f"run {run.name}: {error}") from error


def dataset_info(data: Data) -> DatasetInfo:
    """What there is to know of the dataset before it is prepared: no samples, no digest.

    Raises DataError where a person's own dataset.yaml is missing or wrong.
    """
    dataset = get_dataset(data.dataset)
    if dataset.resolve is not None:
        dataset = dataset.resolve(paths.RAW, data)
    classes = {task: names for task, names in dataset.classes.items() if task in data.tasks}
    return DatasetInfo(dataset.name, data.tasks, classes, dataset.edge_max_dist, splits={}, digest="")
