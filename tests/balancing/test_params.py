"""`balancing` in params.yaml: what is taken, and what each slip is answered."""

import pytest

from pipeline.params.load import parse_params
from pipeline.report.texts import _balanced
from stages.check import summary
from tests.support.params_tree import message, put, some_params


def tree(balancing, **training):
    raw = some_params()
    raw["runs"]["both"]["balancing"] = balancing
    raw["runs"]["both"]["training"] |= training
    return raw


def test_a_method_with_its_options():
    params = parse_params(tree({"method": "cagrad", "c": "4e-1"}))  # as YAML 1.1 reads 4e-1
    chosen = params.run("both").balancing
    assert (chosen.method, chosen.options, str(chosen)) == ("cagrad", {"c": 0.4}, "cagrad (c 0.4)")
    flat = params.flat("both")
    assert flat["balancing.method"] == "cagrad" and flat["balancing.c"] == 0.4
    assert params.run("depth").balancing.method == "fixed"
    assert next(line for line in summary(params, "it") if "  both " in line).endswith(", balanced by cagrad (c 0.4)")
    assert _balanced(params) == " Balanced: `both` by cagrad (c 0.4); all others by fixed weights."
    assert _balanced(parse_params(some_params())) == ""


SLIPS = {
    "unknown method": ({"method": "cagrd"}, {}, "balancing.method: unknown balancing method 'cagrd'; did you mean"),
    "no method": ({"method": None}, {}, "balancing.method: got null; must be text"),
    "no mapping": ("uw", {}, "balancing: got 'uw'; must be keys and values"),
    "unknown option": ({"method": "dwa", "temprature": 1}, {}, "unknown option of dwa 'temprature'; did you mean"),
    "no options": ({"method": "uw", "c": 1}, {}, "unknown option of uw 'c'; Allowed: none"),
    "too small": ({"method": "cagrad", "c": -1}, {}, "balancing.c: got -1; must be a number of at least 0"),
    "not above": ({"method": "dwa", "temperature": 0}, {}, "got 0; must be a number above 0"),
    "too large": ({"method": "gradvac", "beta": 1.5}, {}, "got 1.5; must be a number of at least 0 and at most 1"),
    "not a number": ({"method": "dwa", "temperature": float("nan")}, {}, "got nan; must be a number above 0"),
    "infinite": ({"method": "stch", "mu": float("inf")}, {}, "got inf; must be a number above 0"),
    "a switch": ({"method": "cagrad", "c": True}, {}, "got true; must be a number, not true or false"),
    "one batch": ({"method": "modo"}, {}, "training.accumulate: got 1; modo compares the gradients of two halves"),
    "three parts": ({"method": "sdmgrad"}, {"accumulate": 3, "batch_size": 6}, "give an even number, such as 2"),
    "famo in parts": ({"method": "famo"}, {"accumulate": 2}, "famo looks at the losses of a whole batch: give 1"),
    "compiled": ({"method": "mgda"}, {"compile": True}, "training.compile: got true; mgda goes back through"),
    "captured": ({"method": "gls"}, {"cuda_graph": True}, "training.cuda_graph: got true; gls makes the host wait"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_with_its_remedy(slip):
    balancing, training, expected = SLIPS[slip]
    assert expected in message(tree(balancing, **training))


def test_one_task_has_nothing_to_balance():
    raw = some_params()
    put(raw, "runs.depth.balancing", {"method": "uw"})
    assert "runs.depth.balancing: depth alone has nothing to balance; remove it" in message(raw)


def test_losses_alone_may_be_compiled_and_captured():
    parse_params(tree({"method": "uw"}, compile=True, cuda_graph=True, accumulate=2))
    parse_params(tree({"method": "cagrad"}, cuda_graph=True, accumulate=2))
