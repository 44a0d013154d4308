"""Checkpoints of InvPT, whose network is written out in `tests/reference/invpt.py`, in its own names and layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.adopt.codes import VITS
from pipeline.adopt.invpt import invpt
from pipeline.adopt.network import adopt
from pipeline.core.errors import PipelineError
from pipeline.networks.registry import build
from tests.reference.invpt import ReleasedInvPT, ViT
from tests.support import released_names
from tests.support.adopted import file_of, info_of, run_of
from tests.support.narrow_vit import DEPTH, HEADS, NARROW_VIT, WIDTH

SIZE = (128, 192)
NYUD = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 5, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
OUTPUTS = NYUD | PASCAL | {"sal": 1}
WIDTH_64 = {"vit_maps": "depths", "width": 64}
BLOCK = "multi_task_decoder.invpt.invpt_stages.1.blocks.0.attn"


def released(tasks: Mapping[str, int], size: Sequence[int] = SIZE) -> ReleasedInvPT:
    """The width is 64, and 8 channels more: an eighth, as in the released configurations."""
    vit = ViT([side // 16 for side in size], WIDTH, DEPTH, HEADS, (1, 3, 4))
    return ReleasedInvPT(vit, tasks, width=64, more=8)


def random_state(network: ReleasedInvPT) -> dict[str, Tensor]:
    """Weights as after some training.

    Adopting rounds what it folds to float32, once. Where it folds, these are multiples of 1/256: nothing is rounded.
    """
    state = released_names.random_state({name: tuple(x.shape) for name, x in network.state_dict().items()})
    for name, value in state.items():
        if value.is_floating_point() and (".mt_proj." in name or ".sal." in name):
            state[name] = (value * 256).round() / 256
    return state


def run(tasks: Sequence[str], backbone: str = NARROW_VIT, options: Mapping | None = None, **training):
    training = {"input_size": list(SIZE)} | training
    return run_of("invpt", tasks, backbone=backbone, options=WIDTH_64 if options is None else options, **training)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state(released(NYUD))


# ---- the same function ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"), [(NYUD, ("semseg", "depth", "normals", "edge")), (NYUD, ("edge", "semseg", "normals", "depth")),
                         (PASCAL, ("semseg", "human_parts", "sal", "normals", "edge"))]
)  # fmt: skip
def test_the_same_function_in_double_precision(theirs, ours):
    network = released(theirs)
    state = random_state(network)
    own, adoption = adopt(file_of(state), run(ours), info_of(OUTPUTS))
    network.load_state_dict(state)
    network.double().eval()
    own.double().eval()
    torch.manual_seed(0)
    image = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        expected, preliminary = network(image)
        found = own(image)
    assert list(found.final) == list(ours)
    for given, theirs_of in ((found.final, expected), (found.auxiliary[0], preliminary)):
        for task in ours:
            wanted = theirs_of[task].diff(dim=1) if task == "sal" else theirs_of[task]
            assert_close(given[task], wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))
            assert given[task].std() > 1e-3, "random weights that predict a constant would show nothing"
    unused = sum(map(len, adoption.account.unused.values()))
    assert adoption.account.used + unused == len(state) and adoption.found.code == "invpt"


def test_what_is_not_used_changes_nothing_there(state):
    """The account's reasons are true: the released network gives the same without those tensors."""
    network = released(NYUD).double().eval()
    network.load_state_dict(state)
    _, adoption = adopt(file_of(state), run(list(NYUD)), info_of(OUTPUTS))
    image = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        expected, _ = network(image)
        for sizes in adoption.account.unused.values():
            for name in sizes:
                network.get_parameter(name).normal_()
        found, _ = network(image)
    assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("tasks", "size"),
    [(NYUD | {"semseg": 40}, (448, 576)), (PASCAL | {"semseg": 21}, (512, 512))],
)
def test_every_tensor_of_the_released_sizes_has_its_place(tasks, size):
    """Of ViT-L, without data: names and shapes alone."""
    with torch.device("meta"):
        theirs = ReleasedInvPT(ViT([s // 16 for s in size], 1024, 24, 16, (6, 12, 18)), tasks, 512, 64).state_dict()
        own = build(
            "invpt", backbone="vit_large_patch16_384", tasks=tasks | ({"sal": 1} if "sal" in tasks else {}),
            image_size=size, width=512, vit_maps="depths",
        ).state_dict()  # fmt: skip
    rules = invpt(list(tasks), list(tasks), 512)
    used = set()
    for name, value in own.items():
        rule = next(each for each in rules.rules if each.sources(name))
        sources = rule.sources(name) or ()
        used |= set(sources)
        assert rule.make(*(theirs[source] for source in sources)).shape == value.shape, name
    left = theirs.keys() - used
    assert len(theirs) == (727 if "sal" in tasks else 654) and len(left) == 2 + 2 * len(tasks) + 2 + 2 + 2 + 3


def test_a_file_without_order_is_taken_in_the_released_one(state):
    ordered, _ = adopt(file_of(state), run(list(NYUD)), info_of(OUTPUTS))
    shuffled, _ = adopt(file_of(dict(sorted(state.items())), ordered=False), run(list(NYUD)), info_of(OUTPUTS))
    own = shuffled.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in ordered.state_dict().items())


# ---- what is refused -----------------------------------------------------------------------------------------------


def refused(tensors: Mapping[str, Tensor], published) -> str:
    with pytest.raises(PipelineError) as error:
        adopt(file_of(tensors), published, info_of(OUTPUTS))
    assert "\n" not in str(error.value) and "checkpoints/file.pth as run published" in str(error.value)
    return str(error.value)


def test_tensors_that_are_missing_left_over_or_of_another_shape(state):
    name = f"{BLOCK}.proj_q.weight"
    said = refused({key: value for key, value in state.items() if key != name}, run(list(NYUD)))
    assert f"it lacks 1 tensor ({name})" in said
    said = refused(state | {"backbone.dist_token": torch.zeros(1)}, run(list(NYUD)))
    assert "it has 1 tensor that nothing here is (backbone.dist_token)" in said
    said = refused(state | {name: torch.zeros(36, 35)}, run(list(NYUD)))
    assert f"1 tensor of another shape ({name} [36, 35] is no stages.1.block.attention.query.weight [36, 36])" in said
    head = "multi_task_decoder.intermediate_head.sal.weight"
    said = refused(random_state(released(PASCAL | {"sal": 3})), run(list(PASCAL)))
    assert f"({head} [3, 64, 1, 1] is no preliminary.sal.predict.weight [1, 64, 1, 1]" in said
    said = refused(random_state(released(PASCAL)) | {head: torch.tensor(1.0)}, run(list(PASCAL)))
    assert f"{head} [] is no preliminary.sal.predict.weight [1, 64, 1, 1]" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": {"width": 64}}, "options.vit_maps is pyramid, depths in the released code; set it so"),
        ({"options": {"vit_maps": "depths"}}, "options.width is 128, 64 in the file; set it so"),
        ({"normalization": "half"}, "training.normalization is half, imagenet in the released code"),
        ({"backbone": "vit_tiny_patch16_224"},
         "training.backbone is vit_tiny_patch16_224; the released code has vit_large_patch16_384, and another one"),
        ({"input_size": [128, 128]},
         "its embeddings are of 96 positions, training.input_size [128, 128] has 8x8; set it to the size that"),
    ],
)  # fmt: skip
def test_runs_that_would_be_another_function(state, change, says):
    assert says in refused(state, run(list(NYUD), **change))


def test_released_files_know_which_side_is_which(state):
    """1008 positions are 28 rows of 36 and 36 of 28; other numbers are taken as the run has them, with a note."""
    nyud = state | {"backbone.pos_embed": torch.zeros(1, 1 + 28 * 36, WIDTH)}
    _, adoption = adopt(file_of(nyud), run(list(NYUD), input_size=[448, 576]), info_of(OUTPUTS))
    assert not adoption.account.notes
    said = refused(nyud, run(list(NYUD), input_size=[576, 448]))
    assert "training.input_size is [576, 448], [448, 576] in the released code for NYUD; set it so" in said
    _, adoption = adopt(file_of(state), run(list(NYUD)), info_of(OUTPUTS))
    assert "its 96 positions are taken for 8 rows of 12" in adoption.account.notes[0]


def test_only_the_released_vit_passes_for_it():
    assert all(VITS.fullmatch(name) for name in ("vit_large_patch16_384", "vit_large_patch16_224"))
    assert not any(VITS.fullmatch(name) for name in ("vit_base_patch16_384", "deit3_large_patch16_384", "hrnet_w18"))
