"""stages.check: what is refused by name, in a second, before anything begins."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.models import _registry

import stages.check
from pipeline.core import names, paths
from pipeline.core.errors import ParamsError
from pipeline.evaluation.cost import dataset_info
from pipeline.networks import registry
from pipeline.networks.from_params import build_network
from pipeline.params.load import parse_params
from pipeline.params.timm_names import backbone_problem, models
from pipeline.params.yaml_file import read_yaml
from stages._entry import run_stage
from tests.support.params_tree import message, put, some_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def raw(in_tmp: Path) -> dict:
    return some_params()


def check(raw: dict | str, capsys) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the stage in the working folder."""
    Path("params.yaml").write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, allow_unicode=True))
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.check.main, parser=stages.check.parser(), argv=[])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


# -- the file ------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)

FILES = {
    "tag that refuses its value": ("seeds: !!int x", "line 1: 'x' can't be read as a whole number"),
    "number that is none": ("a:\n  lr: !!float fast", "line 2: 'fast' can't be read as a number"),
    "truth that is none": ("a: !!bool maybe", "line 1: 'maybe' can't be read as true or false"),
    "time that is none": ("a: !!timestamp x", "line 1: 'x' is a date in YAML; write text in quotes"),
    "impossible date": ("\nexperiment: 2026-13-45", "line 2: '2026-13-45' is a date in YAML"),
    "date": ("experiment: 2026-01-05", "line 1: '2026-01-05' is a date in YAML; write text in quotes"),
    "base 60": ("a: 1:30", "line 1: '1:30' is a number in base 60"),
    "base 8": ("a: 010", "line 1: '010' is a number in base 8"),
    "digits without end": ("a: " + "9" * 5000, "can't be read as a whole number"),
    "set": ("a: !!set {b, c}", "the tag 'tag:yaml.org,2002:set' is not known"),
    "binary": ("a: !!binary '???'", "the tag 'tag:yaml.org,2002:binary' is not known"),
    "object": ("a: !!python/object:os.system {}", "line 1: the tag 'tag:yaml.org,2002:python/object:os.s"),
    "own tag": ("a: !mine 3", "line 1: the tag '!mine' is not known; leave it out"),
    "deep list": ("[" * 100_000, "line 1: nested more than 20 deep"),
    "deep list, closed": ("a: " + "[" * 2000 + "]" * 2000, "line 1: nested more than 20 deep"),
    "deep mapping": ("".join(" " * i + f"k{i}:\n" for i in range(500)), "nested more than 20 deep"),
    "aliases of aliases": (BOMB, "more than 20,000 values, aliases written out"),
    "alias of itself": ("a: &a [1, *a]", "line 1: an alias stands for what it is part of"),
    "unknown alias": ("a: *b", "found undefined alias"),
    "key twice": ("training:\n  lr: 1\n  lr: 2", "line 3: lr is given twice (first on line 2)"),
    "key twice by another spelling": ("training: 1\n'training': 2", "line 2: training is given twice"),
    "null character": ("a: b\0", "line 1: not YAML: the control character U+0000"),
    "escaped bell": ('a: "x\\a"', r"line 1: 'x\x07' has the control character U+0007"),
    "escaped half of a pair": ('a: "\\ud800"', r"line 1: '\ud800' has the control character U+D800"),
    "line feed in a key": ('"a\\nb": 1', r"line 1: 'a\nb' has the control character U+000A"),
    "turned round": ('a: "\u202eabc"', "has the control character U+202E"),
    "tab": ("a:\n\tb: 1", "line 2, column 1: not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "line 2, column 1: not YAML"),
    "list": ("- a", "must hold keys and values"),
    "list of lists": ("[[1, 2], {a: b}]", "must hold keys and values"),
    "empty": ("", "must hold keys and values"),
    "comment": ("# nothing", "must hold keys and values"),
    "number": ("3", "must hold keys and values such as `seeds: [0, 1]`, got 3"),
    "large": ("# " + "x" * 300_000, "larger than 256 kB"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_refused_in_a_line(in_tmp: Path, capsys, name: str) -> None:
    text, says = FILES[name]
    before = time.process_time()
    code, out, err = check(text, capsys)
    assert (code, out) == (2, "") and err.startswith("params.yaml: ") and says in err
    assert len(err.splitlines()) == 1 and len(err) < 300
    assert time.process_time() - before < 2


@pytest.mark.parametrize("content", [b"\xff\xfes\0", b"a: caf\xe9", b"\x80"])
def test_a_file_that_is_not_utf_8(in_tmp: Path, content: bytes) -> None:
    Path("params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=r"params.yaml: cannot be read as text"):
        read_yaml("params.yaml")


@pytest.mark.parametrize("graph", ["", "stages:\n", "stages: [train]\n", "stages:\n  train:\n", "stages: {", "- 1\n"])
def test_a_damaged_dvc_yaml_is_named(raw: dict, capsys, graph: str) -> None:
    Path("dvc.yaml").write_text(graph)
    code, _, err = check(raw, capsys)
    assert code == 2 and err.startswith("dvc.yaml: ") and len(err.splitlines()) == 1


def test_what_yaml_offers_rightly_is_taken(in_tmp: Path) -> None:
    text = "\ufeffa: &x {lr: 1e-3, n: 1.5}\nb:\n  <<: *x\n  n: 2\nc: [*x, *x]\nd: '010'\ne: \"2026-01-05\"\nf: é漢\n"
    Path("params.yaml").write_text(text, encoding="utf-8")
    x = {"lr": "1e-3", "n": 1.5}
    expected = {"a": x, "b": {"lr": "1e-3", "n": 2}, "c": [x, x], "d": "010", "e": "2026-01-05", "f": "é漢"}
    assert read_yaml("params.yaml") == expected


# -- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("experiment", "  ", "experiment: got '  '; must be text without blanks at its ends, and not empty"),
        ("experiment", "a\x1b[2J", "experiment: got 'a\\x1b[2J'; must not hold the control character U+001B"),
        ("experiment", "x" * 201, "must have at most 200 characters"),
        ("data.folder", "a\nb", "data.folder: got 'a\\nb'; must not hold the control character U+000A"),
        ("training.pretrained", "a\0", "training.pretrained: got 'a\\x00'; must not hold the control character U+0000"),
        ("training.input_size", [200_000, 100_000], "training.input_size: a step on 4 images of 200,000x100,000"),
        ("training.batch_size", 10**7, "a step on 10,000,000 images of 64x96 pixels takes 6 TB of memory or more"),
        ("training.batch_size", 10**30, "PB of memory or more; lower input_size or batch_size, or raise accumulate"),
        ("runs.both.training.batch_size", 10**8, "runs.both.training.batch_size: a step on 100,000,000 images"),
        ("evaluation.batch_size", 10**8, "evaluation.batch_size: scoring 100,000,000 images of 64x96 pixels takes"),
        ("evaluation.panels", 10**9, "evaluation.panels: got 1000000000; must be less than or equal to 1000"),
        ("data.rooms.size", [10**6, 10**6], "data.rooms.size: a frame of 1,000,000x1,000,000 pixels takes 100 TB"),
        ("data.rooms.train", 10**12, "data.rooms: 1,000,000,000,128 frames of 96x128 pixels take"),
    ],
)  # fmt: skip
def test_values_that_can_not_be(raw: dict, path: str, value: object, says: str) -> None:
    put(raw, path, value)
    assert says in message(raw)


def test_sizes_that_people_use(raw: dict) -> None:
    put(raw, "training", raw["training"] | {"input_size": [1024, 2048], "batch_size": 64})
    parse_params(raw)
    put(raw, "training", raw["training"] | {"input_size": [32, 32], "batch_size": 65536})
    parse_params(raw)
    put(raw, "data.rooms", {"train": 10**12, "val": 10**12})
    put(raw, "data.limit", 20)
    parse_params(raw)


OWN = [".", "./", "data", "data/prepared", "data/raw/x", "models", "models/../models/a", "reports", "pipeline", ".git"]


@pytest.mark.parametrize("folder", [*OWN, "..", "/", "link", "inner/link", "{here}", "{here}/reports", "loop"])
def test_folders_of_the_projects_own(raw: dict, in_tmp: Path, folder: str) -> None:
    for name in ("data/prepared", "models", "inner", "data/own"):
        (in_tmp / name).mkdir(parents=True)
    (in_tmp / "link").symlink_to("models")
    (in_tmp / "inner/link").symlink_to(in_tmp)
    (in_tmp / "loop").symlink_to("loop")
    put(raw, "data.folder", folder.format(here=in_tmp))
    says = message(raw)
    assert says.startswith("params.yaml: data.folder: ") and len(says.splitlines()) == 1
    assert "the project's own" in says or folder == "loop"


@pytest.mark.parametrize("folder", ["data/own", "data/kitchens", "{elsewhere}", "mine", "not/there", "data/own/../b"])
def test_folders_of_ones_own(raw: dict, tmp_path_factory, folder: str) -> None:
    put(raw, "data.folder", folder.format(elsewhere=tmp_path_factory.mktemp("elsewhere")))
    parse_params(raw)


# -- backbones -----------------------------------------------------------------------------------------------


def test_the_models_are_those_that_timm_has() -> None:
    ours = {
        "hrnet_narrow",
        "hrnet_sixes",
        "hrnet_wide_ended",
        "narrow_resnet",
        "vit_narrow",
    }  # of tests/support, where imported
    assert models() == set(_registry._model_entrypoints) - ours
    assert set(timm.list_models()) - ours <= models()


def test_a_backbone_that_timm_does_not_know(raw: dict, capsys) -> None:
    put(raw, "training.backbone", "hrnet_w18_smal")
    put(raw, "runs.depth.training", {"backbone": "resnet1"})
    code, out, err = check(raw, capsys)
    assert (code, out) == (2, "")
    first, *others = err.splitlines()
    assert first == "params.yaml: 2 problems" and len(others) == 2
    allowed = "Allowed: what timm.list_models() lists"
    near = "did you mean 'hrnet_w18_small'?"
    assert f"  training.backbone: unknown backbone 'hrnet_w18_smal'; {near} {allowed}" in others
    assert any(other.startswith("  runs.depth.training.backbone: unknown backbone 'resnet1'; did") for other in others)
    assert backbone_problem("resnet18.a1_in1k") is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backbone": "mixer_b16_224"}, "params.yaml: runs.depth: Backbone 'mixer_b16_224'"),
        ({"output_stride": 8}, "cannot have output_stride 8 in timm"),
        ({"batch_size": 1, "input_size": [32, 32]}, "batch norm can't be trained on one image of 32x32 pixels"),
    ],
)
@pytest.mark.slow
def test_a_network_that_can_not_be_built_or_trained(raw: dict, capsys, changes: dict, says: str) -> None:
    del raw["runs"]["both"]
    put(raw, "runs.depth.training", changes)
    code, out, err = check(raw, capsys)
    assert (code, out) == (2, "") and says in err and err.startswith("params.yaml: runs.depth: ")


@pytest.mark.parametrize("backbone", stages.check.USUAL_BACKBONES)
@pytest.mark.slow
def test_usual_backbones_need_no_trial(raw: dict, monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    """By any architecture; the backbone is built once for all of them."""
    raw["runs"] = {
        name: {
            "architecture": name,
            "tasks": ["depth"] if name == names.SINGLE_TASK else ["depth", "semseg"],
            "training": {"backbone": backbone},
        }
        for name in names.ARCHITECTURES
    }
    params = parse_params(raw)
    built = functools.cache(registry.Backbone)
    monkeypatch.setattr(registry, "Backbone", lambda *arguments: copy.deepcopy(built(*arguments)))
    with torch.device("meta"):
        for name in names.ARCHITECTURES:
            assert stages.check.is_usual(params.run(name))
            build_network(params.run(name), dataset_info(params.data))


def test_it_does_not_import_torch(root: Path) -> None:
    command = "import runpy, sys; sys.argv = ['check']\ntry: runpy.run_module('stages.check', run_name='__main__')\n"
    command += "finally: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", command], cwd=root, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and "params.yaml is valid" in done.stdout and done.stderr == "False\n"


def test_it_reads_ones_own_dataset_yaml(raw: dict, in_tmp: Path, capsys) -> None:
    put(raw, "data", {"dataset": "folder", "tasks": ["semseg", "depth", "edge"]})
    code, out, err = check(raw, capsys)
    assert (code, err) == (0, "") and "warning: data.folder: data/own holds no dataset.yaml yet" in out
    (in_tmp / "data/own").mkdir(parents=True)
    (in_tmp / "data/own/dataset.yaml").write_text("name: mine\ntasks: [semseg, depth]\nclasses: {semseg: [a, !!int b]}")
    code, out, err = check(raw, capsys)
    assert (code, out) == (2, "") and "data/own/dataset.yaml: line 3: 'b' can't be read as a whole number" in err


def test_an_adopted_file_that_is_missing_is_named_whether_its_result_is_there_or_not(raw: dict, capsys) -> None:
    put(raw, "seeds", [0])
    put(raw, "runs.both.adopted", {"0": {"file": "theirs.pth", "sha256": "ab" * 32}})
    for _ in range(2):
        code, out, err = check(raw, capsys)
        assert (code, err) == (0, "")
        assert "warning: runs.both: adopted theirs.pth of seed 0 is not there; its weights can't be made without" in out
        paths.run_file("both", 0).parent.mkdir(parents=True, exist_ok=True)
        paths.run_file("both", 0).write_text("{}")
