"""What three rules of the protocol change on the photographs and labels of a prepared dataset.

    python -m benchmarks.protocol data/prepared

Class maps: labels resized to the input size and back by the pixel under the centre (ours) and by the one at the corner
(released codes), as mIoU of what comes back against the label. Turned in: the share of pixels without a label after
PASCAL-Context's rotation and zoom. Images: the mean difference in grey levels between ways to resize a photograph.
Time: milliseconds of each way, for one photograph, one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline.data.sample import Label
from pipeline.data.store import Store, read_info
from pipeline.loading.loader import resize_image, resize_label
from pipeline.metrics.segmentation import SegmentationMetric
from pipeline.train.augment import Augmenter, source_coordinates

CLASS_TASKS = ("semseg", "human_parts")
DRAWS = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--every", type=int, default=1, help="take every so many-th sample")
    arguments = parser.parse_args()
    size = tuple(arguments.size)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    info = read_info(arguments.prepared)
    tasks = [task for task in CLASS_TASKS if task in info.tasks]
    stores = [Store(arguments.prepared / split, tasks) for split in info.splits]
    stores = [store.select(range(0, len(store), arguments.every)) for store in stores]
    print(f"{info.dataset}: {sum(map(len, stores))} samples, resized to {size[0]}x{size[1]}")
    for task in tasks:
        class_maps(task, stores, info.classes[task], size)
    images(stores, size)
    turned_in(size)


def class_maps(task: str, stores: list[Store], classes: tuple[str, ...], size: tuple[int, int]) -> None:
    """mIoU of labels that were resized to `size` and back."""
    metrics = {}
    for label in (label for store in stores for label in store.labels(task)):
        value, valid = torch.from_numpy(np.array(label.value))[None, None], torch.from_numpy(label.valid)[None, None]
        for rule, resized in (("centre", centre), ("corner", corner)):
            found = torch.from_numpy(resized(resized(label.value, size), label.valid.shape))[None, None]
            metrics.setdefault(rule, SegmentationMetric(classes)).update(found, value, valid)
    for rule, metric in metrics.items():
        scores = metric.compute()
        print(f"  {task}, by the {rule}: mIoU {scores['mIoU']:.2f} %, right {scores['pixel_accuracy']:.2f} %")


def centre(value: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize_label(Label(value, np.ones(value.shape, bool)), size).value


def corner(value: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(value), size[::-1], interpolation=cv2.INTER_NEAREST)


def by_total_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What ours was: one way for both sides, bilinear where the image grows."""
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def released(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)


def images(stores: list[Store], size: tuple[int, int]) -> None:
    ways = {"ours": resize_image, "released (cubic)": released, "before (area or bilinear)": by_total_area}
    seconds, difference = {name: [] for name in ways}, dict.fromkeys(list(ways)[1:], 0.0)
    squares = dict.fromkeys(difference, 0.0)
    count = 0
    for image in (np.array(store[i].image) for store in stores for i in range(len(store))):
        results = {}
        for name, way in ways.items():
            began = time.perf_counter()
            results[name] = way(image, size)
            seconds[name].append(time.perf_counter() - began)
        for name in difference:
            error = results[name].astype(np.float64) - results["ours"]
            difference[name] += np.abs(error).mean()
            squares[name] += (error**2).mean()
        count += 1
    for name in difference:
        print(
            f"  images, ours against {name}: mean difference {difference[name] / count:.2f} grey levels, "
            f"root mean square {np.sqrt(squares[name] / count):.2f}"
        )
    print("  ms an image, median: " + ", ".join(f"{name} {1000 * np.median(of):.2f}" for name, of in seconds.items()))


def turned_in(size: tuple[int, int]) -> None:
    """The share of pixels that +-20 degrees and a zoom of 0.75 to 1.25 bring in from outside."""
    augmenter = Augmenter(flip=0.5, scale=(0.75, 1.25), scale_mode="range", rotation=20.0, values={})
    rng, outside = np.random.default_rng(0), []
    for _ in range(DRAWS // 8):
        source = source_coordinates(augmenter.draw(8, rng).geometry, *size).round()
        x, y = source.unbind(-1)
        inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
        outside += (~inside).float().mean((1, 2)).tolist()
    print(
        f"  turned in from outside, rotation +-20, zoom 0.75 to 1.25: {100 * np.mean(outside):.1f} % of the pixels "
        f"({DRAWS} draws; median {100 * np.median(outside):.1f} %, at most {100 * max(outside):.1f} %)"
    )


if __name__ == "__main__":
    main()
