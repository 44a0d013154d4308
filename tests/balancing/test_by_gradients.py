"""Balancing by gradients: each method against a closed form, scipy, or its algorithm in numpy."""

import numpy as np
import pytest
import torch
from cvxpy.error import SolverError
from scipy.optimize import minimize, nnls, root

from pipeline.balancing.by_gradients import factor, products
from pipeline.core import names
from pipeline.core.errors import TrainingError
from tests.support.balancing import Problem

GENERATOR = torch.Generator().manual_seed(1)
THREE = torch.randn(3, 11, generator=GENERATOR) * torch.tensor([[1.0], [3.0], [0.5]])
# Two tasks in conflict, worked out by hand: products 4, 9 and -3, so a cosine of -1/2.
CONFLICT = torch.zeros(2, 11)
CONFLICT[0, 0], CONFLICT[1, 0], CONFLICT[1, 10] = 2, -1.5, 27**0.5 / 2
PAIR = torch.randn(2, 11, generator=GENERATOR)
CASES = {"three": THREE, "conflict": CONFLICT, "pair": PAIR}
ONES = {count: torch.ones(count) for count in (2, 3)}


def numbers(rows):
    return rows.double().numpy()


def step(method, rows, **options):
    problem = Problem(method, rows, **options)
    return problem.step((rows, ONES[len(rows)])), problem


def on_simplex(objective, count, starts=40):
    """The minimum over weights that are at least 0 and sum to 1, from many starts."""
    rng, best = np.random.default_rng(0), None
    for _ in range(starts):
        found = minimize(
            objective, rng.dirichlet(np.ones(count)), method="SLSQP", bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        if best is None or found.fun < best.fun:
            best = found
    return best.x


def close(actual, expected, rtol=1e-3):
    expected = torch.as_tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.fixture(params=CASES)
def rows(request):
    return CASES[request.param]


def test_mgda_is_the_shortest_convex_combination(rows):
    j = numbers(rows)
    weights = on_simplex(lambda w: np.sum((w @ j) ** 2), len(j))
    gradient, problem = step("mgda", rows)
    close(gradient, weights @ j, rtol=0.02)  # Frank-Wolfe stops near it
    assert problem.weights().sum() == pytest.approx(1)


def test_mgda_of_the_conflict_by_hand():
    """(9 + 3) / (4 + 9 + 2 * 3) = 12 / 19 of the first."""
    close(step("mgda", CONFLICT)[0], 12 / 19 * CONFLICT[0] + 7 / 19 * CONFLICT[1])


def test_pcgrad_of_the_conflict_by_hand():
    """Each loses its part along the other: g0 + 3/9 g1 and g1 + 3/4 g0."""
    close(step("pcgrad", CONFLICT)[0], 1.75 * CONFLICT[0] + 4 / 3 * CONFLICT[1])
    agreeing = CONFLICT.abs()
    close(step("pcgrad", agreeing)[0], agreeing.sum(0))


def test_pcgrad_projects_in_an_order_drawn_for_each_task():
    """Three tasks: its gradient is one of those that some orders give, and all of them come up."""
    rows = torch.randn(3, 11, generator=torch.Generator().manual_seed(4))
    j, orders = numbers(rows), [(1, 2), (2, 1)]

    def projected(i, order):
        g = j[i].copy()
        for other in (k for k in order if k != i):
            g -= min(0, g @ j[other]) / (j[other] @ j[other]) * j[other]
        return g

    by_order = [[projected(i, [k for k in order if k != i]) for order in ((0, 1, 2), (2, 1, 0))] for i in range(3)]
    possible = {
        (a, b, c): by_order[0][a] + by_order[1][b] + by_order[2][c] for a in (0, 1) for b in (0, 1) for c in (0, 1)
    }
    problem, seen = Problem("pcgrad", rows), set()
    for _ in range(60):
        gradient = problem.step((rows, ONES[3])).double().numpy()
        fits = [key for key, each in possible.items() if np.allclose(gradient, each, rtol=1e-4, atol=1e-5)]
        assert fits
        seen.add(tuple(np.round(possible[fits[0]], 4)))
    assert orders and len(seen) == len({tuple(np.round(each, 4)) for each in possible.values()}) > 1


def test_gradvac_moves_towards_the_usual_cosine():
    """Of two tasks, in numpy: equation 5 and the moving average of equation 6."""
    problem, beta, usual = Problem("gradvac", CONFLICT, beta=0.3), 0.3, np.zeros((2, 2))
    rng = np.random.default_rng(0)
    for i in range(5):
        rows = CONFLICT if i == 0 else torch.from_numpy(rng.normal(0.3, 1, (2, 11))).float()
        j, total = numbers(rows), 0
        lengths = np.linalg.norm(j, axis=1)
        for i, k in ((0, 1), (1, 0)):
            cosine, target = j[i] @ j[k] / lengths[0] / lengths[1], usual[i, k]
            g = j[i].copy()
            if cosine < target:
                top = target * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - target**2)
                g += lengths[i] * top / (lengths[k] * np.sqrt(1 - target**2)) * j[k]
            usual[i, k] = (1 - beta) * target + beta * cosine
            total = total + g
        close(problem.step((rows, ONES[2])), total, rtol=1e-4)


@pytest.mark.parametrize("c", [0.2, 0.5])
def test_cagrad_is_the_best_step_for_the_worst_task_near_the_mean(rows, c):
    """The primal problem: of all d within c |mean| of the mean gradient, the one with the largest least <g, d>."""
    j = numbers(rows)
    mean = j.mean(0)
    # d is mean + r u in the span of the rows; a variable t below all products makes it smooth.
    basis = np.linalg.svd(j, full_matrices=False)[2]
    m, radius = j @ basis.T, c * np.linalg.norm(mean)
    centre = basis @ mean
    found = minimize(
        lambda x: -x[-1], np.append(centre, (m @ centre).min()), method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda x: m @ x[:-1] - x[-1]},
            {"type": "ineq", "fun": lambda x: radius**2 - np.sum((x[:-1] - centre) ** 2)},
        ], options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    close(step("cagrad", rows, c=c)[0], found.x[:-1] @ basis, rtol=5e-3)


def test_cagrad_by_hand():
    """Gradients of one length at right angles: w is a half each, and the step 1 + c times the mean."""
    rows = torch.zeros(2, 11)
    rows[0, 0] = rows[1, 9] = 2.0
    close(step("cagrad", rows, c=0.4)[0], 1.4 * rows.mean(0))


def test_imtl_g_has_the_same_projection_on_every_task(rows):
    gradient, problem = step("imtl_g", rows)
    projections = rows @ gradient / rows.norm(dim=1)
    close(projections, projections.mean().expand(len(rows)))
    assert problem.weights().sum() == pytest.approx(1)


@pytest.mark.parametrize("method", ["nash_mtl", "fairgrad"])
def test_bargaining(rows, method):
    """G w = 1 / w: Nash-MTL's condition, and FairGrad's with alpha 1."""
    j = numbers(rows)
    g = j @ j.T
    # In units of 1 / length the solution is of the order of 1.
    scale = 1 / np.sqrt(np.diag(g))
    found = root(lambda log_w: np.log(g @ (np.exp(log_w) * scale)) + log_w + np.log(scale), np.zeros(len(g)))
    weights = np.exp(found.x) * scale
    assert found.success
    options = {"max_norm": 0.0} if method == "nash_mtl" else {}
    gradient, problem = step(method, rows, **options)
    close(problem.weights(), weights, rtol=0.02)
    close(gradient, weights @ j, rtol=0.03)


def test_nash_mtl_cuts_the_step(rows):
    gradient, _ = step("nash_mtl", rows, max_norm=0.25)
    assert float(gradient.norm()) == pytest.approx(0.25, rel=1e-3)


def test_fairgrad_with_another_alpha(rows):
    j = numbers(rows)
    _, problem = step("fairgrad", rows, alpha=2.0)
    weights = problem.weights().double().numpy()
    np.testing.assert_allclose(j @ j.T @ weights, weights**-0.5, rtol=1e-3)


def test_aligned_mtl_turns_the_singular_values_into_the_least(rows):
    u, s, v = np.linalg.svd(numbers(rows), full_matrices=False)
    close(step("aligned_mtl", rows)[0], (s.min() * u @ v).mean(0))


def test_upgrad_is_the_mean_of_projections_on_the_dual_cone(rows):
    """Each gradient plus what least combination of all, with weights at least 0, makes no product negative."""
    j = numbers(rows)
    projected = []
    for g in j:
        # Moreau: the projection on the dual cone is g plus the nearest point of the cone to -g.
        weights, _ = nnls(j.T, -g)
        projected.append(g + weights @ j)
        assert (j @ projected[-1] > -1e-9).all()
    close(step("upgrad", rows)[0], np.mean(projected, axis=0), rtol=5e-3)


def test_graddrop_keeps_one_sign_of_each_number():
    problem, total = Problem("graddrop", THREE), torch.zeros(11)
    up, down = THREE.clamp(min=0).sum(0), THREE.clamp(max=0).sum(0)
    for _ in range(300):
        gradient = problem.step((THREE, ONES[3]))
        assert (torch.isclose(gradient, up) | torch.isclose(gradient, down)).all()
        total += torch.isclose(gradient, up)
    probability = (1 + THREE.sum(0) / THREE.abs().sum(0)) / 2
    torch.testing.assert_close(total / 300, probability, rtol=0, atol=0.12)
    half, _ = step("graddrop", THREE, leak=1.0)
    close(half, THREE.sum(0))


def project(w):
    """Onto the simplex, by bisection on the threshold."""
    low, high = w.min() - 1, w.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(w - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(w - low, 0)


def test_modo_takes_a_step_from_the_products_of_two_batches():
    problem, weights = Problem("modo", THREE, gamma=0.05, rho=0.2), np.full(3, 1 / 3)
    rng = np.random.default_rng(0)
    for _ in range(4):
        one, other = (torch.from_numpy(rng.normal(0, 1, (3, 11))).float() for _ in range(2))
        j1, j2 = numbers(one), numbers(other)
        weights = project(weights - 0.05 * (j1 @ j2.T @ weights + 0.2 * weights))
        close(problem.step((one, ONES[3]), (other, ONES[3])), weights @ (j1 + j2) / 2, rtol=1e-4)


def test_sdmgrad_by_its_algorithm():
    problem, w = Problem("sdmgrad", THREE, preference=0.6), np.full(3, 1 / 3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        one, other = (torch.from_numpy(rng.normal(0.2, 1, (3, 11))).float() for _ in range(2))
        j1, j2 = numbers(one), numbers(other)
        a = j1 @ j2.T
        a = a / np.sqrt(np.maximum(np.diag(a), 0)).mean() ** 2
        speed = np.zeros(3)
        for _ in range(20):
            speed = 0.5 * speed + a @ (w + 0.6 / 3)
            w = project(w - 10 * speed)
        expected = (w + 0.6 / 3) / 1.6
        close(problem.step((one, ONES[3]), (other, ONES[3])), expected @ (j1 + j2) / 2, rtol=1e-3)


def test_four_parts_make_two_batches():
    """The first two and the last two."""
    parts = [(torch.randn(3, 11, generator=GENERATOR), ONES[3]) for _ in range(4)]
    halves = [(sum(rows for rows, _ in parts[i : i + 2]) / 2, ONES[3]) for i in (0, 2)]
    close(Problem("modo", THREE).step(*parts), Problem("modo", THREE).step(*halves), rtol=1e-5)


def test_gradnorm_descends_its_loss():
    """Equation 2 by autograd, Adam on the weights, which then sum to the number of tasks."""
    problem, alpha = Problem("gradnorm", THREE, alpha=0.8, lr=0.05), 0.8
    w, first, rng = torch.ones(3, dtype=torch.float64, requires_grad=True), None, np.random.default_rng(0)
    adam = torch.optim.Adam([w], lr=0.05)
    for _ in range(4):
        rows = torch.from_numpy(rng.normal(0, 1, (3, 11))).float() * torch.tensor([[1.0], [4.0], [0.3]])
        losses = torch.from_numpy(rng.uniform(0.2, 2, 3)).float()
        close(problem.step((rows, losses)), w.detach().float() @ rows, rtol=1e-4)
        first = losses if first is None else first
        rate = (losses / first).double()
        norms = w * rows.double().norm(dim=1)
        target = (norms.mean() * (rate / rate.mean()) ** alpha).detach()
        adam.zero_grad()
        (norms - target).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            w.mul_(3 / w.sum())


@pytest.mark.parametrize("method", names.BY_GRADIENTS)
class TestEveryMethod:
    def parts(self, method, rows):
        return [(rows, ONES[len(rows)])] * (2 if method in names.TWO_BATCHES else 1)

    def test_own_parameters_have_their_own_task_s_gradient(self, method):
        """Whatever happens to the shared ones; and a parameter of no task has none."""
        problem = Problem(method, THREE)
        for _ in range(2):
            problem.step(*self.parts(method, THREE))
            grads = [own.grad.tolist() for own in problem.network.own]
            assert grads == [[1, 1], [2, 2], [3, 3]] and problem.network.idle.grad is None

    def test_it_logs_norms_cosines_and_weights(self, method):
        problem = Problem(method, CONFLICT)
        problem.step(*self.parts(method, CONFLICT))
        record = {name: float(value) for name, value in problem.balancing.record().items()}
        assert record["balancing/gradient_norm/semseg"] == pytest.approx(2)
        assert record["balancing/gradient_norm/depth"] == pytest.approx(3)
        assert record["balancing/cosine/semseg_depth"] == pytest.approx(-0.5)
        assert ("balancing/weight/depth" in record) == (method != "graddrop")

    def test_parts_are_the_batch(self, method):
        """Twice the same parts are the batch: one decision a step."""
        parts = self.parts(method, THREE)
        once, twice = Problem(method, THREE).step(*parts), Problem(method, THREE).step(*parts, *parts)
        close(twice, once, rtol=1e-5)

    def test_a_batch_without_a_label_of_a_task_goes_on_with_the_others(self, method):
        """Its gradient is nothing: a method that shrinks the longest gradient must not stand still for that."""
        values = torch.tensor([1.0, 0.0, 1.0])
        problem = Problem(method, THREE)
        problem.step(*self.parts(method, THREE))
        weights = problem.weights() if method != "graddrop" else None
        problem.step(*[(THREE, values)] * len(self.parts(method, THREE)))
        gradient = problem.network.gradient()
        assert gradient.isfinite().all() and float(gradient.norm()) > 0.05
        if method in ("gradvac", "nash_mtl", "modo", "sdmgrad"):
            torch.testing.assert_close(problem.weights(), weights)
        elif method not in ("gradnorm", "graddrop"):
            others = THREE[[0, 2]]
            alone, _ = step(method, others)
            close(gradient, alone, rtol=1e-3)

    def test_a_gradient_that_is_not_finite_is_named(self, method):
        rows = THREE.clone()
        rows[1, 3] = float("nan")
        with pytest.raises(TrainingError, match=r"the gradient of depth is nan"):
            Problem(method, THREE).step(*self.parts(method, rows))

    def test_only_one_task_with_labels(self, method):
        values = torch.tensor([0.0, 1.0, 0.0])
        problem = Problem(method, THREE)
        gradient = problem.step(*[(THREE, values)] * len(self.parts(method, THREE)))
        torch.testing.assert_close(gradient, THREE[1])


SCALES = {"pcgrad": 1, "gradvac": 1, "cagrad": 1, "mgda": 1, "imtl_g": 1, "aligned_mtl": 1, "upgrad": 1, "fairgrad": 0}


@pytest.mark.parametrize("factor_", [1e-4, 1e4])
@pytest.mark.parametrize("method", SCALES)
def test_small_and_large_gradients_are_balanced_alike(method, factor_, rows):
    """Of degree 1 in the gradients (fairgrad with alpha 1: 0), whatever a solver takes for nothing."""
    as_it_is, _ = step(method, rows)
    scaled, _ = step(method, factor_ * rows)
    close(scaled / factor_ ** SCALES[method], as_it_is, rtol=1e-3)
    assert float(as_it_is.norm()) > 0.05


@pytest.mark.parametrize("answer", ["an error of a solver", "no number"])
def test_a_solver_without_an_answer_ends_the_training_plainly(monkeypatch, answer):
    problem = Problem("cagrad", THREE)

    def solve(_):
        if answer == "no number":
            return torch.full((3,), float("nan"), dtype=torch.float64)
        raise SolverError("Solver 'CLARABEL' failed")

    monkeypatch.setattr(problem.balancing._method.weighting, "forward", solve)
    with pytest.raises(TrainingError, match=r"found no weights .*(CLARABEL|nan).*choose another balancing\.method"):
        problem.step((THREE, ONES[3]))


def test_products_and_their_factor():
    rows = torch.randn(4, 9, generator=GENERATOR)
    expected = rows.double() @ rows.double().T
    torch.testing.assert_close(products(rows, rows), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        products(rows, rows.flip(0)), rows.double() @ rows.flip(0).double().T, rtol=1e-6, atol=1e-6
    )
    one = factor(expected)
    torch.testing.assert_close(one @ one.T, expected)
