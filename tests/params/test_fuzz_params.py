"""Files that people spoil: whatever params.yaml and dataset.yaml hold, `stages.check` ends with 0 or 2.

What it accepts is then built: networks without data, augmenters, the description of the data.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import stages.check
from pipeline.core import names
from pipeline.data.store import DatasetInfo
from pipeline.evaluation import dry_run
from pipeline.evaluation.cost import dataset_info
from pipeline.networks.from_params import build_network
from pipeline.params.load import load_params
from pipeline.params.schema import ResolvedRun
from pipeline.train.train_run import make_augmenter
from stages._entry import run_stage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MANY_PARAMS, MANY_DESCRIPTIONS = 300, 200

ODD = [
    None, True, False, 0, 1, -1, 2, 3.5, 7, 10**6, 10**12, 10**400, -(10**30), 1e-300, 1e308,
    float("inf"), float("nan"), "", " ", "1e-5", "1e999", "0x10", "null", "true", "~", ".", "..",
    "data/prepared", "a\x07b", "a\nb",
    "\ud800", "\u202eabc", "é漢字", "x" * 5000, "a" * 201, "resnet18", "hrnet_w18_smal", "none",
    "semseg", "depth", "edge", "normals", "ccp", "folder", "multi_task", "mti_net", "sgd", "released",
    "train_holdout", [], [[]], [1], [32, 32], [64, 64], [31, 64], [10**6, 10**6], [0.5, 2], [2, 0.5], ["semseg"],
    ["semseg", "semseg"],
    ["semseg", "depth"], ["x", "-y", "-z"], list(range(300)), [None], [[1, 2], {"a": "b"}], {}, {"a": 1},
    {"semseg": 1.0}, {"semseg": []}, {"semseg": ["wall", "floor (tiles)"]}, {"lr": {"lr": 1}}, {1: 2}, {None: None},
    {True: 1}, {1.5: "x"},
]  # fmt: skip

# In place of a value, as text that no dump would write.
RAW = [
    "!!int x", "!!float x", "!!bool maybe", "!!timestamp x", "!!null 3", "!!str 3", "!!set {a}",
    "!!binary '?'", "!!omap [a: 1]", "!x y", "!!python/name:os.system", "!!map [1]", "!!seq {a: 1}", "2026-13-45",
    "2026-01-05", "2026-01-05 25:61:00", "1:30", "1:30.5", "010", "0b2", "1_000", "9" * 5000, "*nowhere",
    "&a [*a]", "&a [1, 2]", "<<", "=", "? a", "- a", "[", "]", "{", "}", "{a, b}", "{a: 1, a: 2}", "'", '"',
    '"\\ud800"', '"\\a"', '"\\x00"', '"\\q"', "|", ">\n  a", "%YAML 9", "@", "`", "\t", "\x00",
    "\x07", "\u2028", "\ufeff", "---", "...", "# nothing",
    "[" * 3000, "[" * 60 + "]" * 60, "{a: " * 60 + "1" + "}" * 60, "<<: {a: 1}", "a: b: c",
]  # fmt: skip


def mutations(base: dict, seed: int, count: int) -> Iterator[str]:
    """`count` files, each the text of `base` after one to three changes."""
    draw = random.Random(seed)
    for _ in range(count):
        tree = copy.deepcopy(base)
        marks: dict[str, str] = {}
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            draw.choice(CHANGES)(draw, tree, marks)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        for mark, raw in marks.items():
            text = text.replace(mark, raw, 1)
        if draw.random() < 0.15:
            text = draw.choice(TEXTS)(draw, text)
        yield text


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below `tree`."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [(tree, key) for key, _ in items] + [place for _, value in items for place in places(value)]


def swap(draw: random.Random, tree: dict, marks: dict) -> None:
    container, key = draw.choice(places(tree))
    container[key] = copy.deepcopy(draw.choice(ODD))


OTHERS = {
    "bilinear": "nearest", "released": "he", "adam": "sgd", "poly": "constant", "choice": "range", "center": "random",
    "imagenet": "half", "auto": "float32", "resnet18": "convnext_atto", "multi_task": "mti_net", "multi_scale": "aspp",
    "wall": "a/b|c", "x": "-x", "rooms": "räume",
}  # fmt: skip


def tweak(draw: random.Random, tree: dict, marks: dict) -> None:
    """A value that might have been meant, of each kind equally often."""
    kind = draw.choice((bool, int, float, str))
    if found := [(container, key) for container, key in places(tree) if type(container[key]) is kind]:
        container, key = draw.choice(found)
        value = container[key]
        changed = {
            bool: lambda: not value,
            int: lambda: draw.choice((value + 1, value * 2, value // 2, str(value), float(value))),
            float: lambda: draw.choice((value / 2, value * 3, f"{value:e}", 0.5, 1)),
            str: lambda: OTHERS.get(value, value),
        }
        container[key] = changed[kind]()


def exchange(draw: random.Random, tree: dict, marks: dict) -> None:
    """A value from elsewhere in the file."""
    (container, key), (other, name) = draw.choice(places(tree)), draw.choice(places(tree))
    container[key] = copy.deepcopy(other[name])


def write_raw(draw: random.Random, tree: dict, marks: dict) -> None:
    container, key = draw.choice(places(tree))
    container[key] = mark = f"MARK{len(marks)}MARK"
    marks[mark] = draw.choice(RAW)


def remove(draw: random.Random, tree: dict, marks: dict) -> None:
    container, key = draw.choice(places(tree))
    del container[key]


def misspell(draw: random.Random, tree: dict, marks: dict) -> None:
    container, key = draw.choice([place for place in places(tree) if isinstance(place[0], dict)] or [(tree, "x")])
    letters = list(str(key))
    at = draw.randrange(len(letters))
    letters[at] = draw.choice(["", "_", "É", ".", letters[at] * 2, "-", " ", "\x1b"])
    container["".join(letters)] = container.pop(key, None)


def add(draw: random.Random, tree: dict, marks: dict) -> None:
    containers = [tree, *(container[key] for container, key in places(tree) if isinstance(container[key], dict))]
    draw.choice(containers)[draw.choice(["lr", "x", "runs", "a b", "é", "", "0", "~"])] = draw.choice(ODD)


def nest(draw: random.Random, tree: dict, marks: dict) -> None:
    container, key = draw.choice(places(tree))
    for _ in range(draw.choice((1, 5, 30, 200))):
        container[key] = [container[key]] if draw.random() < 0.5 else {"a": container[key]}


CHANGES: list[Callable[[random.Random, dict, dict], None]] = [
    *[tweak] * 9, swap, swap, swap, swap, exchange, exchange, write_raw, write_raw, remove, misspell, add, nest
]  # fmt: skip


def repeat_line(draw: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    return "".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])


def cut(draw: random.Random, text: str) -> str:
    return text[: draw.randrange(len(text))]


def insert(draw: random.Random, text: str) -> str:
    at = draw.randrange(len(text))
    pieces = ["\x00", "\t", "\x07", ":", "- ", "\n", "*", "&a ", "!!int ", "{", "\ufeff", "\u2028"]
    return text[:at] + draw.choice(pieces) + text[at:]


def unindent(draw: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    lines[at] = draw.choice(["", " ", "\t", "     "]) + lines[at].lstrip()
    return "".join(lines)


TEXTS: list[Callable[[random.Random, str], str]] = [repeat_line, cut, insert, unindent, lambda draw, text: text * 2]


@pytest.fixture
def checked(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[[], int]:
    """Run the stage in the working folder: its exit code, after what holds for every end was asserted."""
    tried: dict[str, Exception | None] = {}
    check_network = dry_run.check_network

    def once(run: ResolvedRun, info: DatasetInfo) -> None:
        key = json.dumps([run.model_dump(exclude={"name"}), sorted(info.classes)], default=str)
        if key not in tried:
            tried[key] = None
            try:
                check_network(run, info)
            except Exception as error:
                tried[key] = error
        if tried[key] is not None:
            raise tried[key]

    monkeypatch.setattr(dry_run, "check_network", once)

    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            run_stage(stages.check.main, parser=stages.check.parser(), argv=[])
        printed = capsys.readouterr()
        if ended.value.code == 0:
            assert "params.yaml is valid" in printed.out and not printed.err
        else:
            assert ended.value.code == 2 and printed.out == ""
            assert printed.err.endswith("\n") and len(printed.err) < 20_000
            assert all(line.isprintable() for line in printed.err.splitlines())
        return ended.value.code

    return run


@cache
def build(architecture: str, training: str, tasks: tuple[str, ...], auxiliary: tuple[str, ...], options: str) -> None:
    """Of networks that differ in nothing that building sees, one."""
    run, info = BUILT[architecture, training, tasks, auxiliary, options]
    with torch.device("meta"):
        build_network(run, info)


BUILT: dict[tuple, tuple[ResolvedRun, DatasetInfo]] = {}
BUILDING = ("backbone", "output_stride", "hrnet_upsampling", "initialization", "batch_norm_momentum")


def build_all() -> None:
    """Everything that the accepted params.yaml, and a dataset.yaml with it, describe."""
    params = load_params()
    info = dataset_info(params.data)
    for name in params.all_runs:
        run = params.run(name)
        recipe = json.dumps([getattr(run.training, key) for key in BUILDING])
        classes = json.dumps({task: len(of) for task, of in info.classes.items()})
        key = (run.architecture, recipe + classes, run.tasks, run.auxiliary_tasks, json.dumps(run.options))
        BUILT[key] = run, info
        build(*key)
        make_augmenter(run).draw(2, np.random.default_rng(0))
        params.flat(name)


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def base_params() -> dict:
    """Every key that there is, and two runs that are built in no time."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["training"] |= {"backbone": "resnet18", "input_size": [64, 64]}
    tree["runs"] = {
        "normals": {"architecture": "single_task", "tasks": ["normals"]},
        "multi_task": {
            "architecture": "multi_task",
            "tasks": ["semseg", "normals"],
            "options": {"head": "multi_scale"},
            "training": {"lr": 4.0e-3},
        },
    }
    return tree


def test_params(in_tmp: Path, checked: Callable[[], int]) -> None:
    codes = []
    for text in mutations(base_params(), 0, MANY_PARAMS):
        write(in_tmp / "params.yaml", text)
        codes.append(checked())
        if codes[-1] == 0:
            build_all()
    assert 30 < codes.count(0) < 150, "both ends are met often enough to mean something"


def test_descriptions_of_data(in_tmp: Path, checked: Callable[[], int]) -> None:
    description = {
        "name": "kitchens", "tasks": ["semseg", "depth", "normals", "edge"],
        "classes": {"semseg": ["floor (tiles)", "wall", "cupboard"]}, "ignore": {"semseg": 255},
        "splits": {"train": "gt_sets/train.txt", "val": "gt_sets/val.txt"},
        "edge_max_dist": 0.0075, "depth_scale": 1000, "normals_axes": ["x", "-y", "-z"],
    }  # fmt: skip
    params = base_params()
    params["data"] |= {"dataset": "folder", "tasks": ["semseg", "normals"]}
    write(in_tmp / "params.yaml", yaml.safe_dump(params))
    (in_tmp / "data/own").mkdir(parents=True)
    codes = []
    for text in mutations(description, 1, MANY_DESCRIPTIONS):
        write(in_tmp / "data/own/dataset.yaml", text)
        codes.append(checked())
        if codes[-1] == 0:
            build_all()
    assert 20 < codes.count(0) < 100


def test_the_files_are_right_before_they_are_spoilt(in_tmp: Path, checked: Callable[[], int]) -> None:
    write(in_tmp / "params.yaml", yaml.safe_dump(base_params()))
    assert checked() == 0
    build_all()
    assert set(names.TASKS) > {"semseg", "normals"}
