"""odsF: the F-measure of boundaries at the one threshold that is best for the whole split."""

from __future__ import annotations

import math
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from pipeline.core.workers import worker_count
from pipeline.metrics.base import Metric, binary_label
from pipeline.metrics.boundaries import NMS_SIGMA, THRESHOLDS, BoundaryCounts, count_boundaries


class EdgeMetric(Metric):
    """`odsF` with its precision and recall in per cent, and its threshold.

    The variant: 99 thresholds, k/100, at or above; no non-maximum suppression unless `nms`; every thresholded
    map is thinned; one-to-one matches within `max_dist` times the image diagonal against the label as it
    stands; counts summed over the images. Predictions and labels in pixels that are not valid are ignored,
    images without valid pixels not scored.

    Images are matched in threads while the network predicts, whatever their sizes.

    max_dist: share of the image diagonal, 0.0075 (BSDS, PASCAL) or 0.011 (NYUD). workers: threads, by default as many
    as `worker_count` gives. Raises ValueError for a share that
    is not between 0 and 1, and for a valid label that is neither 0 nor 1.
    """

    formula = "best_f_measure"

    matched: Tensor
    predicted: Tensor
    labelled: Tensor
    images: Tensor
    valid_pixels: Tensor

    def __init__(self, max_dist: float, nms: bool = False, workers: int | None = None) -> None:
        super().__init__()
        if not 0 < max_dist < 1:
            raise ValueError(f"max_dist {max_dist}: a share of the image diagonal is expected, above 0 and below 1")
        self._pending: deque[Future[BoundaryCounts] | None] = deque()  # None: an image that is not scored
        self.max_dist = max_dist
        self.nms = nms
        self._workers = workers or worker_count()
        for name in ("matched", "predicted"):
            self.add_state(name, torch.zeros(len(THRESHOLDS), dtype=torch.long))
        for name in ("labelled", "images", "valid_pixels"):
            self.add_state(name, torch.zeros((), dtype=torch.long))

    def reset(self) -> None:
        """See `Metric`; images under way are forgotten."""
        self._pending.clear()
        super().reset()

    def _add(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """prediction: (1, 1, H, W) probability; target: (1, 1, H, W) 0 or 1; valid: (1, 1, H, W) bool."""
        label = binary_label(target, valid)
        scored = valid.any()
        self.images += scored
        self.valid_pixels += valid.sum()
        count = partial(count_boundaries, max_dist=self.max_dist, nms=self.nms)
        # Copies: a caller may change its tensors before a thread looks at them.
        image = [x[0, 0].to("cpu", copy=True).numpy() for x in (prediction.float(), label, valid)]
        self._pending.append(_pool(self._workers).submit(count, *image) if scored else None)
        self._collect(leave=_AHEAD * self._workers)

    def _collect(self, leave: int = 0) -> None:
        """Add the counts of finished images, the oldest first, until at most `leave` are still under way."""
        while len(self._pending) > leave:
            image = self._pending[0]
            matched, predicted, labelled = image.result() if image is not None else _NOTHING
            self._pending.popleft()  # not before: one that failed fails again, and is never left out of a score
            counts = {"matched": torch.from_numpy(matched), "predicted": torch.from_numpy(predicted)}
            counts["labelled"] = torch.tensor(labelled)
            self.keep(**counts, scored=torch.tensor(int(image is not None)))
            self.add(counts)

    @property
    def states(self) -> dict[str, Tensor]:
        """The sums, by name, of all images so far: waits for those under way."""
        if self._pending:
            self._collect()
        return super().states

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        """See `Metric`: waits for images under way."""
        self._collect()
        return super().statistics

    @property
    def protocol(self) -> str:
        """See `Metric`."""
        first = (
            f"non-maxima across the ridge are suppressed (by the Hessian, sigma {NMS_SIGMA:g} px)"
            if self.nms
            else "no non-maximum suppression"
        )
        return (
            f"odsF: F-measure at the best of {len(THRESHOLDS)} thresholds for the whole split (k/100, at or above, "
            "float32; not interpolated between them), from counts summed over the images; precision, recall and "
            f"threshold are that one's. Of a prediction: {first}; each thresholded map is thinned (Guo and Hall 1989, "
            "MATLAB's bwmorph thin) and paired one to one with the label's edge pixels, as they stand, at most "
            f"{self.max_dist:g} of the image diagonal apart; the number of pairs is the largest there is (a "
            "maximum matching). Pixels that are not valid hold no edge on either side; images without a valid pixel "
            "are not scored."
        )

    def compute(self) -> dict[str, float]:
        """The scores, and the counts of images and pixels scored; NaN where nothing was."""
        self._collect()
        matched = self.matched.double()
        precision = matched / self.predicted.clamp(min=1)
        recall = matched / self.labelled.clamp(min=1)
        # 2PR / (P + R), without its 0 / 0.
        f_score = 2 * matched / (self.predicted + self.labelled).clamp(min=1)
        best = int(f_score.argmax())
        scored = int(self.images) > 0
        return {
            "odsF": 100 * f_score[best].item() if scored else math.nan,
            "precision": 100 * precision[best].item() if scored else math.nan,
            "recall": 100 * recall[best].item() if scored else math.nan,
            "threshold": float(best + 1) / 100 if scored else math.nan,
            "images": int(self.images),
            "valid_pixels": int(self.valid_pixels),
        }


_NOTHING = BoundaryCounts(np.zeros(len(THRESHOLDS), np.int64), np.zeros(len(THRESHOLDS), np.int64), 0)
_AHEAD = 8  # images a thread that may wait: enough to keep all busy, few enough for memory


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """One pool for the process's life. Compiled thinning and matching release the interpreter's lock."""
    return ThreadPoolExecutor(workers, thread_name_prefix="edges")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child would wait for threads that it has not
