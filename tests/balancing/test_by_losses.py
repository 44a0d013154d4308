"""Balancing by losses: each method against its formula, worked out apart."""

import numpy as np
import pytest
import torch

from tests.support.balancing import Problem

ROWS = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
LOSSES = torch.tensor([2.0, 0.5, 1.25])


def steps_of(problem, *losses, after=None):
    return [problem.step((ROWS, each), after=after) for each in losses]


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def test_fixed_weights_are_the_sum():
    problem = Problem("fixed", ROWS, task_weights={"semseg": 1.0, "depth": 3.0, "normals": 0.5})
    torch.testing.assert_close(problem.step((ROWS, LOSSES)), torch.tensor([1, 3, 0.5]) @ ROWS)
    assert problem.network.idle.grad is None


def test_gls_is_the_geometric_mean():
    factors = LOSSES.prod() ** (1 / 3) / 3 / LOSSES
    problem = Problem("gls", ROWS)
    torch.testing.assert_close(problem.step((ROWS, LOSSES)), factors @ ROWS)
    torch.testing.assert_close(problem.weights(), factors)


def test_stch_is_a_smooth_maximum():
    for mu in (1.0, 0.1):
        factors = torch.softmax(LOSSES / 3 / mu, 0) / 3
        torch.testing.assert_close(Problem("stch", ROWS, mu=mu).step((ROWS, LOSSES)), factors @ ROWS)


@pytest.mark.parametrize(
    ("method", "total"),
    [
        ("uw", lambda s, loss: (loss * (-s).exp() / 2 + s / 2).sum()),
        ("imtl_l", lambda s, loss: (s.exp() * loss - s).sum()),
    ],
)
def test_learnt_weights_descend_the_total(method, total):
    """The parameters of the method are the optimiser's; here three steps of SGD."""
    problem, s = Problem(method, ROWS), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD(problem.balancing.parameters(), lr=0.3)
    for losses in (LOSSES, LOSSES.flip(0), LOSSES * 2):
        at = losses.clone().requires_grad_()
        factors, of_s = torch.autograd.grad(total(s, at), [at, s])
        torch.testing.assert_close(problem.step((ROWS, losses)), factors @ ROWS)
        optimizer.step()
        s = (s.detach() - 0.3 * of_s).requires_grad_()
    torch.testing.assert_close(problem.balancing.parameters()[0].detach(), s.detach())


def test_rlw_draws_anew_each_step_and_the_same_again():
    first = torch.stack(steps_of(Problem("rlw", ROWS, seed=3), *[LOSSES] * 4))
    assert torch.equal(first, torch.stack(steps_of(Problem("rlw", ROWS, seed=3), *[LOSSES] * 4)))
    assert len(first.unique(dim=0)) == 4
    problem, drawn = Problem("rlw", ROWS), []
    for _ in range(600):
        problem.balancing.begin_step()
        drawn.append(problem.balancing._decided.clone())
    drawn = torch.stack(drawn)
    torch.testing.assert_close(drawn.sum(1), torch.ones(600))
    normal = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    torch.testing.assert_close(drawn.mean(0), normal.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.std(0), normal.std(0), rtol=0.1, atol=0)


def test_rlw_leaves_torch_s_own_stream_alone():
    torch.manual_seed(1)
    alone = torch.rand(3)
    torch.manual_seed(1)
    Problem("rlw", ROWS).step((ROWS, LOSSES))
    assert torch.equal(torch.rand(3), alone)


def test_dwa_by_hand():
    """Two steps an epoch; from the third on, weights by the ratio of the last two means."""
    problem, epochs = Problem("dwa", ROWS, temperature=2.0), []
    rng = np.random.default_rng(0)
    for epoch in range(4):
        weights = np.ones(3) if epoch < 2 else 3 * softmax(epochs[-1] / epochs[-2] / 2.0)
        losses = rng.uniform(0.1, 3, (2, 3)).astype(np.float32)
        for each in torch.from_numpy(losses):
            torch.testing.assert_close(problem.step((ROWS, each)), torch.from_numpy(weights).float() @ ROWS)
        problem.balancing.end_epoch()
        epochs.append(losses.mean(0).astype(np.float64))


def test_famo_by_hand():
    """Equations of the paper's algorithm 1, with Adam at 0.025 and weight decay 1e-3 on the logits."""
    problem, logits = Problem("famo", ROWS), torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.025, weight_decay=1e-3)
    for before, after in ((LOSSES, LOSSES * torch.tensor([0.5, 0.9, 1.1])), (LOSSES.flip(0), LOSSES)):
        z = logits.softmax(0)
        factors = (z / before / (z / before).sum()).detach()
        torch.testing.assert_close(problem.step((ROWS, before), after=after), factors @ ROWS)
        adam.zero_grad()
        z.backward(before.log() - after.log())
        adam.step()
    torch.testing.assert_close(problem.balancing._scalarizer._w.detach(), logits.detach())


@pytest.mark.parametrize("method", ["uw", "imtl_l", "gls", "stch", "famo", "dwa", "rlw"])
def test_a_batch_without_labels_of_a_task_is_no_loss_of_zero(method):
    """The method sees the last loss of that task: nothing is infinite, or nothing, for that."""
    problem, twin = Problem(method, ROWS), Problem(method, ROWS)
    steps_of(problem, LOSSES)
    steps_of(twin, LOSSES)
    without = LOSSES * torch.tensor([1.0, 0.0, 1.0])
    gradient, whole = problem.step((ROWS, without)), twin.step((ROWS, LOSSES))
    torch.testing.assert_close(problem.weights(), twin.weights())
    torch.testing.assert_close(gradient, whole - twin.weights()[1] * ROWS[1])


@pytest.mark.parametrize("method", ["uw", "imtl_l", "gls", "stch", "famo", "dwa"])
def test_a_task_that_never_had_a_label_stands_for_the_mean_of_the_others(method):
    without, mean = LOSSES * torch.tensor([1.0, 0.0, 1.0]), (LOSSES[0] + LOSSES[2]) / 2
    problem, twin = Problem(method, ROWS), Problem(method, ROWS)
    problem.step((ROWS, without))
    twin.step((ROWS, torch.stack([LOSSES[0], mean, LOSSES[2]])))
    torch.testing.assert_close(problem.weights(), twin.weights())


@pytest.mark.parametrize("method", ["uw", "imtl_l", "gls", "stch", "dwa", "rlw"])
def test_parts_of_a_batch_are_averaged(method):
    """Each part has its own factors, as its losses are its own."""
    parts = [(ROWS, LOSSES), (ROWS.flip(0), LOSSES * 3)]
    whole = Problem(method, ROWS).step(*parts)
    each = torch.stack([Problem(method, ROWS).step(part) for part in parts]).mean(0)
    torch.testing.assert_close(whole, each)


def test_task_weights_come_first_and_are_in_the_log():
    weights = {"semseg": 2.0, "depth": 1.0, "normals": 0.5}
    problem = Problem("gls", ROWS, task_weights=weights)
    times = torch.tensor([2.0, 1.0, 0.5])
    factors = (LOSSES * times).prod() ** (1 / 3) / 3 / LOSSES
    torch.testing.assert_close(problem.step((ROWS, LOSSES)), factors @ ROWS)
    torch.testing.assert_close(problem.weights(), factors)
