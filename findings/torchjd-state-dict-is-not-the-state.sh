#!/usr/bin/env bash
# torchjd 0.18.0, torch 2.15.0: methods are torch modules and called Stateful, yet their state_dict is not what their next
# result depends on. A training that is resumed from it takes other steps than one that was left alone: of DWA nothing is
# in it (the means of the last epochs are missing), of FAMO the logits alone (the state of its own Adam is missing), and
# both load without a word; that of GradVac is refused by a new one, whose buffer does not exist yet.
#
# Seen (what the third step weighs losses or gives as gradient, after two steps before):
#   DWA: state_dict [], loads, same third step: False
#   FAMO: state_dict ['_w', 'min_losses'], loads, same third step: False
#   GradVac: state_dict ['gramian_weighting._phi_t', 'weighting.weighting._phi_t'], refused, same third step: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2> /dev/null
env/bin/uv pip install --quiet --python env/bin/python torch==2.15.0 torchjd==0.18.0 numpy==2.4.6
env/bin/python - <<'P'
import torch
from torchjd.aggregation import GradVac
from torchjd.scalarization import DWA, FAMO

STEPS = [torch.tensor([[2.0, 0.0, 0.0], [-1.5, 1.0, 2.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 1.0]]),
         torch.tensor([[0.0, 1.0, 3.0], [2.0, -1.0, 0.0]])]

def gradient(method, rows):
    return method(rows)

def epoch(method, rows):
    """An epoch of one batch: the weights of its losses."""
    losses = rows.abs().sum(1).requires_grad_()
    weights = torch.autograd.grad(method(losses), losses)[0]
    method.step()
    return weights

def twice(method, rows):
    """A step that halves one loss and raises the other: the logits after it."""
    losses = rows.abs().sum(1)
    method(losses)
    method.update(losses * torch.tensor([0.5, 1.1]))
    return method._w.detach().clone()

results = {}
for name, make, step in (("DWA", DWA, epoch), ("FAMO", lambda: FAMO(2), twice), ("GradVac", GradVac, gradient)):
    alone, resumed = make(), make()
    for rows in STEPS[:2]:
        step(alone, rows)
    state = alone.state_dict()
    try:
        resumed.load_state_dict(state)
        loads = "loads"
    except RuntimeError:
        loads = "refused"
    same = torch.allclose(step(alone, STEPS[2]), step(resumed, STEPS[2]))
    results[name] = (sorted(state), loads, same)
    print(f"{name}: state_dict {sorted(state)}, {loads}, same third step: {same}")
assert results["DWA"] == ([], "loads", False), "the behaviour has changed"
assert results["FAMO"] == (["_w", "min_losses"], "loads", False), "the behaviour has changed"
assert results["GradVac"][1:] == ("refused", False), "the behaviour has changed"
P
