"""How long odsF takes: noisy predictions of real-sized edge labels, counted by EdgeMetric and by the plain form.

    python -m benchmarks.edges --images 100 --size 480 640 --workers 2

The two take turns, ten images at a time, and must count the same; the ratio is of processor time, that of compilation
included. The plain form (tests/reference/boundaries.py) is what EdgeMetric was before, in one thread of this process.

The labels are those of generated rooms, or the edge maps of a folder (`--labels FOLDER`: .npy or .png, non-zero on an
edge; NYUD_MT/edge, say). A prediction is its label, displaced by smooth noise of 2 pixels, blurred, with smooth and
pixel noise on the logits: so wide blobs at low thresholds, gaps at high ones, and an odsF in the seventies.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage

from benchmarks.machine import describe
from pipeline.datasets.rooms.dataset import render_frame
from pipeline.metrics.edges import EdgeMetric
from tests.reference.boundaries import count_boundaries

TURN = 10  # images
FRAMES = 20  # rooms that are rendered; more images reuse their labels with other noise


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of the rooms")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads that match")
    parser.add_argument("--max-dist", type=float, default=0.011, help="share of the image diagonal")
    parser.add_argument("--nms", action="store_true")
    parser.add_argument("--labels", type=Path, help="folder of edge maps instead of rooms")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def labels(folder: Path | None, size: tuple[int, int], seed: int) -> list[np.ndarray]:
    """Boolean (H, W) edge maps. Raises ValueError for a folder without any."""
    if folder is None:
        frames = (render_frame(seed, "val", i, size)[0] for i in range(FRAMES))
        return [frame.labels["edge"].value > 0 for frame in frames]
    paths = sorted([*folder.glob("*.npy"), *folder.glob("*.png")])
    if not paths:
        raise ValueError(f"{folder} holds neither .npy nor .png files")
    read = {".npy": np.load, ".png": lambda path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED)}
    return [read[path.suffix](path) > 0 for path in paths]


def predict(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool label -> (H, W) float32 probability, wrong in the ways that networks are."""

    def smooth(sigma: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.standard_normal(label.shape), sigma, mode="wrap")
        return noise / noise.std()

    rows, columns = np.indices(label.shape)
    moved = ndimage.map_coordinates(label.astype(float), [rows + 2 * smooth(15), columns + 2 * smooth(15)], order=1)
    evidence = np.minimum(6 * ndimage.gaussian_filter(moved, 2.5), 1.2)
    logits = 4 * evidence - 3 + 1.2 * smooth(10) + 0.5 * smooth(3) + 0.1 * rng.standard_normal(label.shape)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def images(args: argparse.Namespace) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(probability, label), `args.images` of them."""
    maps = labels(args.labels, tuple(args.size), args.seed)
    rng = np.random.default_rng(args.seed)
    for i in range(args.images):
        yield predict(maps[i % len(maps)], rng), maps[i % len(maps)]


def compare(split: list[list[torch.Tensor]], metric: EdgeMetric) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (wall, CPU) of EdgeMetric and of the plain form. Raises RuntimeError where one counts otherwise."""
    seconds = np.zeros((2, 2))

    def timed(which: int, start: float, cpu: float) -> None:
        seconds[which] += time.perf_counter() - start, time.process_time() - cpu

    for first in range(0, len(split), TURN):
        turn = split[first : first + TURN]
        clock = time.perf_counter(), time.process_time()
        for probability, label in turn:
            metric.update(probability, label.byte(), torch.ones_like(label))
        kept = metric.statistics  # waits for the threads
        timed(0, *clock)
        clock = time.perf_counter(), time.process_time()
        arrays = [(p[0, 0].numpy(), label[0, 0].numpy()) for p, label in turn]
        expected = [count_boundaries(*each, np.ones_like(each[1]), metric.max_dist, metric.nms) for each in arrays]
        timed(1, *clock)
        for i, counts in enumerate(expected, first):
            if not all(np.array_equal(kept[name][i], getattr(counts, name)) for name in counts._fields):
                raise RuntimeError(f"image {i}: EdgeMetric and the plain form count otherwise")
    return seconds[0], seconds[1]


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    split = [[torch.from_numpy(array)[None, None] for array in image] for image in images(args)]
    metric = EdgeMetric(args.max_dist, args.nms, args.workers)
    ours, plain = compare(split, metric)
    scores = metric.compute()
    source = args.labels or "rooms"
    sizes = {f"{label.shape[-2]}x{label.shape[-1]}" for _, label in split}
    print(f"odsF of {args.images} images of {' '.join(sorted(sizes))} ({source}), {args.workers} threads")
    print(f"  {describe('numpy', 'scipy', 'numba')}, load {os.getloadavg()[0]:.1f}")
    print(f"  max_dist {args.max_dist:g}, nms {args.nms}, seed {args.seed}")
    for name, (wall, cpu) in (("EdgeMetric", ours), ("plain form", plain)):
        print(f"  {name}: wall {wall:.1f} s; CPU {cpu:.1f} s, {cpu / args.images:.3f} s an image")
    print(f"  CPU of EdgeMetric / plain form: {ours[1] / plain[1]:.3f}, equal counts of all images")
    print("  " + ", ".join(f"{name} {scores[name]:.2f}" for name in ("odsF", "precision", "recall", "threshold")))


if __name__ == "__main__":
    main()
