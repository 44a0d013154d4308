"""What `evaluate` keeps of cross attention: the middle pixel of an image, in a file that holds predictions too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.compute.device import NORMALIZATIONS, choose_device
from pipeline.data.sample import Sample
from pipeline.evaluation.attention import Gathered, TaskAttention, middle_of, of_sample, with_sample
from pipeline.evaluation.cross_attention import attention_at
from pipeline.evaluation.evaluate_run import attention_of
from pipeline.loading.loader import image_tensor, resize_image
from pipeline.networks.registry import build
from tests.evaluation.test_scoring import RECIPE
from tests.support.narrow_hrnet import NARROW

TASKS = {"semseg": 3, "depth": 1}
RECIPE_HERE = RECIPE.model_copy(update={"input_size": (32, 64), "normalization": "half"})
SAMPLE = Sample("a b", np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8), {})


def test_it_is_of_the_middle_pixel_and_two_evaluations_give_the_same_numbers():
    torch.manual_seed(0)
    network = build("sequential_attention", backbone=NARROW, tasks=TASKS).eval()
    device = choose_device("float32", True)
    found, again = (attention_of(network, SAMPLE, RECIPE_HERE, device) for _ in range(2))
    assert all(np.array_equal(found[name], again[name]) for name in found | again)
    image = NORMALIZATIONS["half"](image_tensor(resize_image(SAMPLE.image, (32, 64)))[None].float())
    expected = attention_at(network, image, (18.5 / 37, 25.5 / 50))
    assert len(found) == 2 * 2 * (4 + 6), "weights and changes of two tasks"
    for task, of in expected.items():
        for name, array in of.arrays.items():
            np.testing.assert_allclose(found[f"a b/{task}/{name}"], array, rtol=1e-5, atol=1e-7)


def answers(seed: int) -> TaskAttention:
    """Three scales, of which CTAM was left out at the coarsest, as nobody can: no mapping may depend on another."""
    weights = np.random.default_rng(seed).random((2, 3)).astype(np.float32)
    some = Gathered(weights, 0.25)
    return TaskAttention(({"depth": some, "edge": some}, {"edge": some}, {}), ({2: some, 1: some}, {2: some}, {}))


def test_what_is_kept_is_read_again_beside_predictions_and_other_samples():
    kept = {"a/semseg": np.zeros(1), "ab/depth": np.zeros(1)}
    kept |= with_sample({"semseg": answers(0), "depth": answers(1)}, "a") | with_sample({"semseg": answers(2)}, "ab")
    assert list(of_sample(kept, "c")) == [] and list(of_sample(kept, "ab")) == ["semseg"]
    found = of_sample(kept, "a")
    assert list(found) == ["semseg", "depth"]
    for seed, task in enumerate(found):
        rows, expected = found[task].rows, answers(seed).rows
        assert [list(row) for row in rows] == [["depth", "edge", "scale 3", "scale 2"], ["edge", "scale 3"], []]
        for row, other in zip(rows, expected, strict=True):
            for name, (weights, change) in row.items():
                assert np.array_equal(weights, other[name].weights) and change == 0.25


@pytest.mark.parametrize(
    ("module", "expected"),
    [("tasks", ["ctam/1/depth", "ctam/1/edge", "ctam/2/edge"]), ("scales", ["csam/1/3", "csam/1/2", "csam/2/3"])],
)
def test_a_module_that_is_not_there_is_read_as_empty(module, expected):
    """Sources of CSAM count as scales, though the coarsest gathers nothing itself."""
    whole = answers(0)
    empty = ({}, {}, {})
    part = TaskAttention(whole.tasks, empty) if module == "tasks" else TaskAttention(empty, whole.scales)
    assert [name for name in part.arrays if not name.endswith("/change")] == expected
    found = TaskAttention.from_arrays(part.arrays)
    assert [list(row) for row in found.rows] == [list(row) for row in part.rows][: len(found.rows)]


def test_the_middle_of_an_even_side_is_the_later_pixel():
    assert middle_of(np.zeros((4, 5, 3))) == (2.5 / 4, 2.5 / 5)
