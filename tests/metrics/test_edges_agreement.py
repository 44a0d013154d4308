"""odsF against a published implementation: pyEdgeEval, whose matching is the BSDS benchmark's own C++ code.

It is not among this project's requirements: it is compiled on installation, and its matching is under the GPL. Where it
is absent these tests skip. To run them: `uv pip install --no-deps --target FOLDER pyEdgeEval==0.2.8`, then pytest with
PYTHONPATH=FOLDER. Measured with it on the human-made label boundaries of 20 CCP photographs (72,738 thinned pixels) and
5 NYUD frames (51,418), each against a copy shifted to the right, at the dataset's tolerance; and on noisy predictions
of 3 rooms frames (480x640, tolerance 0.0075), as they are and after each one's own non-maximum suppression:

    pairs found      CCP +0 px   +3 px  +20 px   NYUD +0 px   +3 px  +20 px   odsF: rooms   with NMS   CPU s an image
    ours                72,738  72,738  22,862       51,418  51,418  32,214         73.76      75.39              1.3
    the benchmark       72,564  72,550  22,858       51,288  51,273  32,211         73.72      75.53               58

The same: thresholds, thinning (pixel for pixel that of its `bwmorph_thin`), tolerance, sums over the images.
Different, and held to these bounds below:
- Pairs. The benchmark solves a min-cost assignment in which a pixel without a partner is joined to one of six outlier
  nodes drawn at random. It misses a few pairs, of a map with itself too (0.3 % above), and not always the same ones.
  Ours is the largest number of pairs (brute force agrees), so never less than theirs.
- The best threshold. The benchmark looks for the best F on lines between the precisions and recalls of neighbouring
  thresholds; ours is the best of the 99 themselves.
- pyEdgeEval's own `binary_thin` stops as soon as one of the two sub-iterations finds nothing, a few pixels too early.
"""

import numpy as np
import pytest
import torch

from pipeline.metrics.boundaries import THRESHOLDS, count_boundaries
from pipeline.metrics.edges import EdgeMetric
from pipeline.metrics.thinning import thin
from tests.metrics.test_edges import scene

WHY = "pyEdgeEval, the published correspondence code, is not installed: see this file's first lines"
pytest.importorskip("pyEdgeEval", reason=WHY)

from pyEdgeEval import correspond_pixels  # noqa: E402
from pyEdgeEval.common.binary_label.evaluate_boundaries import evaluate_boundaries_threshold  # noqa: E402
from pyEdgeEval.common.metrics import compute_rec_prec_f1, interpolated_max_scores  # noqa: E402
from pyEdgeEval.preprocess import bwmorph_thin  # noqa: E402

SIZE = (96, 128)
TOLERANCE = pytest.mark.parametrize("max_dist", [0.0075, 0.011, 0.03])


@pytest.mark.parametrize("seed", range(4))
def test_thinning_is_the_same_pixel_for_pixel(seed, monkeypatch):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # pyEdgeEval was written for NumPy 1
    probability, _ = scene(SIZE, seed)
    for threshold in (0.2, 0.4, 0.6):
        assert (thin(probability >= threshold) == bwmorph_thin(probability >= threshold)).all()


@TOLERANCE
@pytest.mark.parametrize("seed", range(3))
def test_pairs_at_every_tenth_threshold(seed, max_dist):
    probability, label = scene(SIZE, seed)
    ours = count_boundaries(probability, label, np.ones(SIZE, bool), max_dist)
    for k in range(5, 100, 10):
        boundary = thin(probability >= THRESHOLDS[k - 1])
        predicted, labelled, *_ = correspond_pixels(boundary, label, max_dist=max_dist)
        theirs = (predicted > 0).sum()
        assert theirs == (labelled > 0).sum()
        assert theirs <= ours.matched[k - 1] <= 1.01 * theirs + 2


@TOLERANCE
def test_odsf_of_a_split(max_dist):
    images = [scene(SIZE, seed) for seed in range(3)]
    metric = EdgeMetric(max_dist)
    counts = np.zeros((4, len(THRESHOLDS)))
    for probability, label in images:
        tensor, target = (torch.from_numpy(array)[None, None] for array in (probability, label))
        metric.update(tensor, target.byte(), torch.ones_like(target))
        counts += evaluate_boundaries_threshold(THRESHOLDS, probability, label, max_dist)
    recall, precision, f_score = compute_rec_prec_f1(*counts)
    *_, interpolated = interpolated_max_scores(THRESHOLDS, recall, precision)
    odsf = metric.compute()["odsF"]
    assert odsf == pytest.approx(100 * f_score.max(), abs=0.3)
    assert odsf == pytest.approx(100 * interpolated, abs=0.3)
