"""How often the 95 % intervals of Δm hold the truth, where images and seeds are both random and the truth is known.

    python -m benchmarks.coverage                              # the table of docs/protocol.md: an hour on one core
    python -m benchmarks.coverage --repetitions 200 --images 60
    python -m benchmarks.coverage --time                       # how long intervals of NYUD's size take

A made-up world of three tasks, scored by mIoU, RMSE and odsF. An image has a size, classes, some of them rare, and a
difficulty that all tasks, networks and seeds share; more that a task's baseline and run share; and more of each. A seed
moves a network's quality, and so does each pair of image and seed. These effects are normal, recalls are probit-normal
and squared errors lognormal, so the expected sums of a network, and with them its score on endless images, are known in
closed form, and the mean over endless seeds by quadrature. `Scenario` says how large the effects of seeds are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from scipy.special import ndtr

from benchmarks.machine import describe
from pipeline.comparison.estimate import interval
from pipeline.metrics.resampling import (
    FORMULAS,
    draw,
    resampled_performance,
    resampled_scores,
    score,
    scores_without_each,
)

TASKS = {"mIoU": "mean_iou", "RMSE": "root_mean_square", "odsF": "best_f_measure"}
HIGHER = {"mIoU": True, "RMSE": False, "odsF": True}
SEEDS = (2, 3, 4, 5)
GAIN = {"mIoU": 0.06, "RMSE": 0.02, "odsF": -0.05}  # of the run over its baselines, on the latent scale

PRESENT = np.array([1.0, 1.0, 0.8, 0.6, 0.5, 0.35, 0.2, 0.12])  # how often an image has a class
AREA = np.array([6000, 4000, 2500, 1500, 900, 700, 500, 400.0])  # its pixels, where it is there
RECALL = np.array([1.4, 1.1, 0.8, 0.6, 0.4, 0.2, 0.1, -0.1])  # on the latent scale
THRESHOLD = np.linspace(0, 1, 99)
FOUND, FALSE = 1.4 - 3.2 * THRESHOLD, 0.9 - 4.2 * THRESHOLD  # edge pixels at each threshold, on the latent scale
SPREAD = 0.6  # of sizes, lognormal
DIFFICULTY, SHARED, OWN = 0.35, 0.25, 0.15  # deviations of an image's effects, on the latent scale


@dataclass(frozen=True)
class Scenario:
    """Deviations on the latent scale, of a seed's effect and of that of a pair of image and seed."""

    name: str
    seed: float
    both: float


SCENARIOS = (
    Scenario("images alone", 0.0, 0.0),
    Scenario("mostly images", 0.006, 0.1),
    Scenario("even", 0.02, 0.1),
    Scenario("mostly seeds", 0.08, 0.1),
    Scenario("pairs", 0.0, 0.4),
)


def variance(scenario: Scenario) -> float:
    """Of all effects on one image's quality but the seed's."""
    return DIFFICULTY**2 + SHARED**2 + OWN**2 + scenario.both**2


def truth(scenario: Scenario) -> dict[str, float]:
    """The gain of each task, in percent, on endless images and in the mean over endless seeds; Δm is their mean."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(60)
    effects, weight = scenario.seed * nodes, weight / weight.sum()
    gains = {}
    for task, formula in TASKS.items():
        ours = FORMULAS[formula](**expected(task, scenario, GAIN[task] + effects))
        theirs = FORMULAS[formula](**expected(task, scenario, effects))
        gain = (weight @ ours) * (weight @ (1 / theirs)) - 1  # a run's seed and its baseline's move independently
        gains[task] = 100 * float(gain if HIGHER[task] else -gain)
    return gains


def expected(task: str, scenario: Scenario, quality: np.ndarray) -> dict[str, np.ndarray]:
    """Expected statistics of an image, (Q, D), for networks of these qualities, (Q,)."""
    scale, one = np.sqrt(1 + variance(scenario)), np.ones_like(quality)
    if task == "mIoU":
        return segmentation(PRESENT * AREA * one[:, None], ndtr((RECALL + quality[:, None]) / scale))
    if task == "RMSE":
        return {"squared": np.exp(-2 * quality + 2 * variance(scenario)), "pixels": one}
    matched, false = (ndtr((each + sign * quality[:, None]) / scale) for each, sign in ((FOUND, 1), (FALSE, -1)))
    return {"matched": matched, "predicted": matched + false, "labelled": one, "scored": one}


def segmentation(pixels: np.ndarray, recall: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics where what is missed of a class is taken for the others, for large ones more often."""
    hit = pixels * recall
    missed = pixels - hit
    share = AREA / AREA.sum()
    others = missed / (1 - share)  # of class k, share_j / (1 - share_k) goes to class j
    predicted = hit + share * (others.sum(-1, keepdims=True) - others)
    return {"hit": hit, "labelled": pixels, "predicted": predicted}


def sample(scenario: Scenario, images: int, seeds: int, rng: np.random.Generator) -> dict[tuple[str, bool, int], dict]:
    """{(task, whether the run or its baseline, seed): statistics of each image}, as an evaluation would keep them."""
    sizes = np.exp(SPREAD * rng.standard_normal(images) - SPREAD**2 / 2)
    present = rng.random((images, len(PRESENT))) < PRESENT
    pixels = np.rint(present * AREA * np.exp(SPREAD * rng.standard_normal(present.shape) - SPREAD**2 / 2))
    difficulty = DIFFICULTY * rng.standard_normal(images)
    found = {}
    for task in TASKS:
        shared = difficulty + SHARED * rng.standard_normal(images)
        for ours in (False, True):
            own = shared + OWN * rng.standard_normal(images)
            for seed in range(seeds):
                quality = own + scenario.seed * rng.standard_normal() + scenario.both * rng.standard_normal(images)
                quality += GAIN[task] * ours
                found[task, ours, seed] = statistics(task, quality, sizes, pixels)
    return found


def statistics(task: str, quality: np.ndarray, sizes: np.ndarray, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Of images on which a network has these qualities."""
    if task == "mIoU":
        exact = segmentation(pixels, ndtr(RECALL + quality[:, None]))
        return {name: np.rint(each).astype(np.int64) for name, each in exact.items()}
    count = np.rint(300_000 * sizes)
    if task == "RMSE":
        return {"squared": count * np.exp(-2 * quality), "pixels": count.astype(np.int64)}
    labelled = np.rint(4000 * sizes)
    matched, false = (ndtr(each + sign * quality[:, None]) for each, sign in ((FOUND, 1), (FALSE, -1)))
    matched, false = (np.rint(labelled[:, None] * each).astype(np.int64) for each in (matched, false))
    counts = {"matched": matched, "predicted": matched + false, "labelled": labelled.astype(np.int64)}
    return counts | {"scored": np.ones(len(quality), np.int64)}


def repetition(
    number: int, scenario: Scenario, images: int, resamples: int, seeds: Sequence[int] = SEEDS
) -> dict[tuple[str, int], tuple[float, float, float]]:
    """{(task, or Δm, seeds): (low, high, the seeds' share of the variance)} of one experiment."""
    rng = np.random.default_rng([number, images, SCENARIOS.index(scenario)])
    kept = sample(scenario, images, max(seeds), rng)
    weights = np.concatenate([np.ones((1, images)), draw(images, resamples)])  # the first row: the images as they are
    scores = {
        (task, ours, seed): np.concatenate(
            [resampled_scores(weights, each, TASKS[task]), scores_without_each(each, TASKS[task])]
        )
        for (task, ours, seed), each in kept.items()
    }
    found = {}
    for what in (*TASKS, "Δm"):
        tasks = tuple(TASKS) if what == "Δm" else (what,)
        gains = np.stack(
            [
                resampled_performance(
                    {task: scores[task, True, seed] for task in tasks},
                    {task: scores[task, False, seed] for task in tasks},
                    HIGHER,
                )
                for seed in range(max(seeds))
            ]
        )
        for count in seeds:
            result = interval(gains[:count, 0].tolist(), gains[:count, 1:-images], gains[:count, -images:])
            assert result is not None
            found[what, count] = result.low, result.high, result.seed_variance / result.standard_error**2
    return found


def coverage(
    scenario: Scenario, images: int, repetitions: int, resamples: int, workers: int = 1, seeds: Sequence[int] = SEEDS
) -> dict[tuple[str, int], tuple[float, float]]:
    """{(task, or Δm, seeds): (per cent of intervals that hold the truth, the seeds' mean share of the variance)}."""
    known = truth(scenario)
    known["Δm"] = float(np.mean(list(known.values())))
    work = partial(repetition, scenario=scenario, images=images, resamples=resamples, seeds=seeds)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            done = list(pool.map(work, range(repetitions), chunksize=10))
    else:
        done = [work(number) for number in range(repetitions)]
    result = {}
    for key in done[0]:
        low, high, share = np.array([each[key] for each in done]).T
        result[key] = 100 * float(((low <= known[key[0]]) & (known[key[0]] <= high)).mean()), 100 * float(share.mean())
    return result


def time_nyud(images: int = 654, runs: int = 8, classes: int = 40) -> float:
    """Seconds for the scores of all resamples, of `runs` runs with four tasks, and their intervals; one seed each."""
    rng = np.random.default_rng(0)
    labelled = rng.integers(0, 9000, (images, classes))
    matched = np.sort(rng.integers(0, 4000, (images, 99)), axis=1)[:, ::-1].copy()
    depth = {"squared": rng.random(images) * 1e5, "pixels": rng.integers(1, 300_000, images)}
    edges = {"matched": matched, "predicted": matched * 2, "labelled": matched[:, 0], "scored": np.ones(images, int)}
    kept = {
        "mean_iou": {"hit": labelled // 2, "labelled": labelled, "predicted": labelled},
        "root_mean_square": depth,
        "mean": {"total": depth["squared"], "pixels": depth["pixels"]},
        "best_f_measure": edges,
    }
    begun = time.perf_counter()
    weights = draw(images)
    for _, (formula, each) in product(range(runs), kept.items()):
        without = scores_without_each(each, formula)
        interval([score(each, formula)], resampled_scores(weights, each, formula)[None], without[None])
    return time.perf_counter() - begun


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--repetitions", type=int, default=1000)
    command.add_argument("--resamples", type=int, default=600)
    command.add_argument("--images", type=int, nargs="+", default=[60, 200])
    command.add_argument("--scenarios", nargs="+", default=[each.name for each in SCENARIOS], help="what varies")
    command.add_argument("--workers", type=int, default=1)
    command.add_argument("--time", action="store_true", help="only time intervals of NYUD's size")
    args = command.parse_args()
    print(describe("numpy", "scipy"))
    if args.time:
        print(f"654 images, 40 classes, 99 thresholds, 8 runs of 4 tasks, 1 seed each: {time_nyud():.1f} s")
        return
    print(f"{args.repetitions} repetitions, {args.resamples} resamples: coverage in % of Δm, then of single tasks")
    head = ["images", "what varies", "seeds", "share of seeds", "Δm", *TASKS]
    print("| " + " | ".join(head) + " |\n|---:|---|" + "---:|" * (len(head) - 2))
    chosen = [each for each in SCENARIOS if each.name in args.scenarios]
    for images, scenario in product(args.images, chosen):
        counts = (1,) if scenario.seed == scenario.both == 0 else SEEDS  # with one seed only images vary
        found = coverage(scenario, images, args.repetitions, args.resamples, args.workers, counts)
        for seeds in counts:
            cells = [f"{found[what, seeds][0]:.1f}" for what in ("Δm", *TASKS)]
            share = f"{found['Δm', seeds][1]:.0f} %"
            print(f"| {images} | {scenario.name} | {seeds} | {share} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
