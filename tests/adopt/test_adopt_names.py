"""Checkpoints in the exact naming of each released code become ours, and compute what that code computes of them.

Each code's names and shapes stand in `tests/support/released_names.py`, and what its network computes of them, in its
own order of channels, in `released_forward.py`: neither knows ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.adopt.network import Adoption, adopt
from pipeline.params.schema import ResolvedRun
from tests.reference.sca import upsample
from tests.support import narrow_hrnet, released_forward, released_names
from tests.support.adopted import file_of, info_of, run_of
from tests.support.released_forward import Weights

SIZE = (64, 96)
NARROW = {"widths": narrow_hrnet.WIDTHS, "modules": (1, 1, 1), "blocks": 1, "first": (4, 1), "stem": 8}
SIXES = NARROW | {"widths": narrow_hrnet.SIXES}
OUTPUTS = {"semseg": 5, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1, "depth": 1}


def outputs(*tasks: str) -> dict[str, int]:
    return {task: OUTPUTS[task] for task in tasks}


# ---- the tables are whole: their totals are those that were measured on the released networks ---------------------


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (released_names.sca({"semseg": 40, "depth": 1}), 25_763_645),
        (released_names.mti_net(["semseg", "depth"], {"semseg": 40, "depth": 1}), 8_578_179),
        (released_names.pad_net(["semseg", "depth"], {"semseg": 40, "depth": 1}), 7_019_056),
    ],
)
def test_the_tables_have_as_many_parameters_as_the_released_networks(names, count):
    assert released_names.parameters(names) == count


# ---- the same function -------------------------------------------------------------------------------------------


def assert_same_function(
    names: released_names.Names,
    run: ResolvedRun,
    predict: Callable[[Weights, list[Tensor]], Mapping[str, Tensor]],
    within: float = 1e-9,
) -> Adoption:
    """What ours predicts with the file's weights is what `predict` makes of them, in double precision."""
    state = released_names.random_state(names)
    network, adoption = adopt(file_of(state), run, info_of(OUTPUTS))
    network.double().eval()
    torch.manual_seed(0)
    image = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    wide = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    with torch.no_grad():
        expected = predict(Weights(wide), network.backbone(image))
        found = network(image).final
    assert list(found) == list(run.tasks)
    for task in run.tasks:
        assert_close(
            found[task], upsample(expected[task], SIZE), rtol=0, atol=within * float(expected[task].abs().max())
        )
        assert found[task].std() > 1e-3, "random weights that predict a constant would show nothing"
    return adoption


@pytest.mark.parametrize("tasks", [("semseg", "depth"), ("semseg", "human_parts", "sal")])
def test_sca(tasks):
    names = released_names.sca(outputs(*tasks), SIXES)
    run = run_of("sequential_attention", tasks, backbone="hrnet_sixes")
    adoption = assert_same_function(names, run, lambda w, maps: released_forward.sca(w, tasks, maps))
    unused = sum(map(len, adoption.account.unused.values()))
    assert unused == 2 * (4 * 2 + 3) + (4 * 2 + 3) and adoption.account.used + unused == len(names)
    assert adoption.found.code == "sca"


MIXED = ("semseg", "normals", "edge", "depth")  # the code's order, in which auxiliary tasks stand among main ones


@pytest.mark.parametrize(
    ("tasks", "everything"), [(("semseg", "depth"),) * 2, (("semseg", "depth"), MIXED), (("depth", "semseg"), MIXED)]
)
def test_mti_net(tasks, everything):
    names = released_names.mti_net(tasks, outputs(*everything), NARROW)
    extra = [task for task in everything if task not in tasks]
    run = run_of("mti_net", tasks, extra)
    adoption = assert_same_function(names, run, lambda w, maps: released_forward.mti_net(w, tasks, everything, maps))
    assert not adoption.account.unused and adoption.account.used == len(names)


@pytest.mark.parametrize("everything", [("semseg", "depth"), MIXED])
def test_pad_net(everything):
    tasks = ("semseg", "depth")
    names = released_names.pad_net(tasks, outputs(*everything), NARROW)
    run = run_of("pad_net", tasks, [task for task in everything if task not in tasks])
    adoption = assert_same_function(names, run, lambda w, maps: released_forward.pad_net(w, tasks, everything, maps))
    assert adoption.account.used == len(names)


@pytest.mark.parametrize("tasks", [("semseg",), ("sal", "edge")])
def test_baselines(tasks):
    run = run_of("multi_task" if len(tasks) > 1 else "single_task", tasks)
    names = released_names.baseline(outputs(*tasks), NARROW)
    adoption = assert_same_function(names, run, lambda w, maps: released_forward.baseline(w, tasks, maps))
    assert bool(adoption.account.notes) == (len(tasks) == 1), "a single decoder has no task in its name"


@pytest.mark.parametrize("tasks", [("depth",), ("semseg", "depth")])
def test_baselines_on_a_dilated_resnet(tasks):
    names = released_names.baseline(outputs(*tasks), None)
    architecture = "multi_task" if len(tasks) > 1 else "single_task"
    run = run_of(architecture, tasks, backbone="resnet18", options={"head": "aspp"}, output_stride=8)
    adoption = assert_same_function(
        names,
        run,
        lambda w, maps: released_forward.baseline(w, tasks, maps),
        within=1e-6,  # the batch norm that is folded into a convolution is rounded once, to float32
    )
    (left,) = adoption.account.unused.values()
    assert len(left) == len(tasks) and all(name.endswith("convs.4.2.num_batches_tracked") for name in left)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("semseg", "depth", "normals", "edge"), ("semseg", "depth", "normals", "edge")),
        (("semseg", "depth", "normals", "edge"), ("edge", "semseg", "normals", "depth")),
        (("semseg", "human_parts", "sal", "normals", "edge"), ("semseg", "human_parts", "sal", "normals", "edge")),
    ],
)
def test_atrc(theirs, ours):
    names = released_names.atrc({**outputs(*theirs), **({"sal": 2} if "sal" in theirs else {})}, NARROW)

    def predict(weights, maps):
        found = released_forward.atrc(weights, theirs, maps)
        if "sal" in found:  # the log-odds of the second of two classes
            found["sal"] = found["sal"].log_softmax(1).diff(dim=1)
        return found

    # The difference of saliency's two rows is rounded once, to float32.
    adoption = assert_same_function(names, run_of("atrc", ours), predict, within=1e-6 if "sal" in ours else 1e-9)
    assert adoption.account.used == len(names)
    assert any("local contexts" in note for note in adoption.account.notes)


# ---- files of old torch: a ModuleDict that was made of a dict has its names sorted, channels are in the order of tasks


def test_sca_with_sorted_names():
    tasks = ("semseg", "depth")
    names = released_names.sca(outputs(*sorted(tasks)), SIXES)
    run = run_of("sequential_attention", tasks, backbone="hrnet_sixes")
    assert_same_function(names, run, lambda w, maps: released_forward.sca(w, tasks, maps))


@pytest.mark.parametrize("everything", [("semseg", "depth"), MIXED])
def test_mti_net_with_sorted_names(everything):
    tasks = ("semseg", "depth")
    names = released_names.mti_net(sorted(tasks), outputs(*sorted(everything)), NARROW)
    run = run_of("mti_net", tasks, [task for task in everything if task not in tasks])
    assert_same_function(names, run, lambda w, maps: released_forward.mti_net(w, tasks, everything, maps))


def test_atrc_with_sorted_names():
    """Its contexts alone are filled in one by one, so they tell the order."""
    theirs = ("semseg", "normals", "edge", "depth")
    alphabetical, own = (released_names.atrc(outputs(*tasks), NARROW) for tasks in (sorted(theirs), theirs))
    layers = [name for name in alphabetical if ".cp_blocks." not in name]
    contexts = [name for name in own if ".cp_blocks." in name]
    names = released_names.Names({name: own[name] for name in (*layers, *contexts)})
    assert_same_function(names, run_of("atrc", theirs), lambda w, maps: released_forward.atrc(w, theirs, maps))


@pytest.mark.parametrize(
    ("named", "noted"),
    [
        (("semseg", "normals", "depth"), False),  # as released
        (("depth", "normals", "semseg"), False),  # as old torch sorts
        (("normals", "semseg", "depth"), True),
    ],
)
def test_names_in_an_order_that_nobody_released_are_noted(named, noted):
    tasks = ("semseg", "normals", "depth")
    state = released_names.random_state(released_names.mti_net(named, outputs(*named), NARROW))
    _, adoption = adopt(file_of(state), run_of("mti_net", tasks), info_of(OUTPUTS))
    found = [note for note in adoption.account.notes if "released order, semseg, normals, depth" in note]
    assert bool(found) == noted


def test_the_order_of_tasks_in_a_file_without_order_is_the_released_configurations():
    theirs = ("semseg", "depth", "normals", "edge")
    state = released_names.random_state(released_names.atrc(outputs(*theirs), NARROW))
    run = run_of("atrc", theirs)
    ordered, _ = adopt(file_of(state), run, info_of(OUTPUTS))
    shuffled, _ = adopt(file_of(dict(sorted(state.items())), ordered=False), run, info_of(OUTPUTS))
    own = shuffled.state_dict()
    for name, value in ordered.state_dict().items():
        assert torch.equal(value, own[name]), name


# ---- the same bits -----------------------------------------------------------------------------------------------


def test_every_tensor_that_only_changes_its_name_keeps_its_bits():
    state = released_names.random_state(released_names.mti_net(("semseg", "depth"), outputs("semseg", "depth"), NARROW))
    network, adoption = adopt(file_of(state), run_of("mti_net", ("semseg", "depth")), info_of(OUTPUTS))
    own = network.state_dict()
    for ours, theirs in adoption.account.mapped.items():
        expected = torch.cat([state[name] for name in theirs]) if len(theirs) > 1 else state[theirs[0]]
        assert torch.equal(own[ours].flatten(), expected.flatten()), ours


def test_the_published_size_of_sca():
    """Every parameter but the 3,096 that the released code never uses."""
    names = released_names.sca({"semseg": 40, "depth": 1})
    run = run_of("sequential_attention", ("semseg", "depth"), backbone="hrnet_w18_small_v2")
    network, adoption = adopt(file_of(released_names.random_state(names)), run, info_of({"semseg": 40}))
    assert sum(each.numel() for each in network.parameters()) == 25_763_645 - 3_096
    assert {sum(sizes.values()) for sizes in adoption.account.unused.values()} == {3_096, 11 * 49 * 49}
    (line,) = (line for line in adoption.lines() if "second norm" in line)
    assert line.startswith(
        "22 (3,096 numbers) are not used: the second norm of a window block, which is never called ("
    )


def test_counters_that_an_old_file_lacks_are_no_matter():
    names = released_names.baseline(outputs("depth"), NARROW)
    state = released_names.random_state(names)
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    network, adoption = adopt(file_of(old), run_of("single_task", ("depth",)), info_of(OUTPUTS))
    assert adoption.account.used == len(old)
    assert all(not v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked"))
