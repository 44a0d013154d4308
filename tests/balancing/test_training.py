"""Balancing in a training: every method learns, resumes to the same bits, and logs what it does."""

import pytest

from pipeline.balancing.methods import METHODS
from pipeline.core import names
from pipeline.params.load import parse_params
from stages.check import balancing_problems
from tests.support.params_tree import some_params
from tests.support.tiny_training import make_store, params, run_training
from tests.train.test_resume import Killed, Training, same


def test_the_names_are_those_of_the_methods():
    assert tuple(names.BALANCING) == (names.FIXED, *METHODS)
    assert set(names.BY_LOSSES) | set(names.BY_GRADIENTS) == set(METHODS)


def test_a_method_whose_solver_is_not_installed_is_named_before_anything_runs(monkeypatch):
    tree = some_params()
    tree["runs"]["both"]["balancing"] = {"method": "cagrad"}
    assert not list(balancing_problems(parse_params(tree)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "clarabel" else name)
    (problem,) = balancing_problems(parse_params(tree))
    assert problem.path == "runs.both.balancing.method" and "cagrad needs clarabel: pip install" in problem.text


def halves(method):
    return {"accumulate": 2} if method in names.TWO_BATCHES else {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_a_training_killed_and_resumed_is_the_same_bits(in_tmp, method):
    """After the first step, at the end of an epoch, and in the middle of one: after every step a checkpoint."""
    training = Training(in_tmp / "data", samples=12, batch_size=4, epochs=10, balancing=method, **halves(method))
    whole = training.go("undisturbed")
    assert whole[3] == 30
    for kill in (2, 6, 5):  # of the steps since the kill before: 2, 7 and 11 of all, three an epoch
        with pytest.raises(Killed):
            training.go("killed", kill_at_step=kill)
    assert same(training.go("killed"), whole)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_logs(tmp_path, method):
    run = params(epochs=8, balancing=method, **halves(method))
    _, history, logged = run_training(make_store(tmp_path), run)
    first, last = (sum(record.losses.values()) for record in (history[0], history[-1]))
    assert last < 0.9 * first
    assert all(name.startswith("loss") for record in history for name in record.losses), "the curve is of losses alone"
    balancing = {name for name in logged[0][1] if name.startswith("balancing/")}
    weights = {f"balancing/weight/{task}" for task in run.tasks} if method != "graddrop" else set()
    of_gradients = {"balancing/cosine/semseg_depth"} | {f"balancing/gradient_norm/{task}" for task in run.tasks}
    assert balancing == weights | (of_gradients if method in names.BY_GRADIENTS else set())


def test_fixed_weights_log_nothing_more(tmp_path):
    _, _, logged = run_training(make_store(tmp_path), params(epochs=1))
    assert not [name for name in logged[0][1] if name.startswith("balancing")]


def test_famo_looks_twice_and_leaves_batch_norm_alone(tmp_path):
    """Its second look at the batch changes no running statistics: they are those of one look a step."""
    from tests.compute.test_distributed import Normed

    counted = {}
    for method in ("fixed", "famo"):
        network, _, _ = run_training(
            make_store(tmp_path / method), params(epochs=2, balancing=method), network=Normed()
        )
        counted[method] = int(network.body[1].num_batches_tracked)
    assert counted["fixed"] == counted["famo"] == 4
