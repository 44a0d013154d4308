"""A training step's kernels, captured once in a CUDA graph and then replayed by one call.

A step of these networks is thousands of small kernels, and Python needs longer to ask for them than a fast GPU to run
them. Captured in a CUDA graph, all of them start at one call, and the host is done long before the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.core.errors import TrainingError
from pipeline.loading.loader import Batch

_WARM_UP = 3  # ordinary calls at first: libraries choose and load kernels, constants are made, torch.compile compiles


class CUDAGraphStep:
    """`gradients(batch)`, which computes losses and leaves parameters' gradients behind, as a CUDA graph.

    The graph reads its batch from, and writes gradients and losses to, memory of its own: between two calls gradients
    may be changed, but no parameter and no gradient may be put elsewhere. Every batch must have the first one's sizes.
    Random numbers go on from the generator of the device, just as without a graph.

    Raises TrainingError where `gradients` can't be captured, say for an `.item()`, which makes the host wait.
    """

    def __init__(self, gradients: Callable[[Batch], dict[str, Tensor]]):
        self._gradients, self._calls = gradients, 0
        self._stream = torch.cuda.Stream()  # torch asks for warming up on another stream than the default one
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, whose gradients the parameters have then."""
        self._calls += 1
        if self._calls <= _WARM_UP:
            return self._aside(batch)
        if self._graph is None:
            self._capture(batch)
        assert self._graph is not None
        for own, given in zip(self._batch.tensors(), batch.tensors(), strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return {name: loss.clone() for name, loss in self._losses.items()}

    def _aside(self, batch: Batch) -> dict[str, Tensor]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._gradients(batch)
        current.wait_stream(self._stream)
        return losses

    def _capture(self, batch: Batch) -> None:
        self._batch = batch.map(torch.empty_like)
        # Augmented or not, an image means the same: in the wider type each batch can be copied into it.
        self._batch.image = torch.empty_like(batch.image, dtype=torch.float32)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: what other threads do meanwhile, such as pinning memory for batches, is none of its business
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._losses = self._gradients(self._batch)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a capture that failed complains too
            raise TrainingError(
                f"the step can't be captured in a CUDA graph: {str(cause).splitlines()[0]}. "
                "Set the run's training.cuda_graph to false in params.yaml."
            ) from error
        self._graph = graph
