"""Values set in the text of a YAML file: what is edited reads so, and no other byte is touched."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from pipeline.core.errors import ParamsError
from pipeline.params.yaml_edit import scalar, set_values

ROOT = Path(__file__).parents[2]
PROFILES = [
    pytest.param(path, id=path.stem, marks=() if path.stem == "rooms" else pytest.mark.slow)
    for path in sorted((ROOT / "profiles").glob("*.yaml"))
]


def changed(before: str, after: str) -> list[str]:
    """The lines of a diff that are not in both."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


CASES = {
    "in place, the comment in its column": (
        "runs:\n  a:\n    training:\n      lr: 1.0e-3     # rate\n", ("runs", "a", "training", "lr"), 2.5e-05,
        ["-      lr: 1.0e-3     # rate", "+      lr: 2.5e-05    # rate"],
    ),
    "a comment without room": ("a: 1 # one\nb: 2\n", ("a",), 123456, ["-a: 1 # one", "+a: 123456 # one"]),
    "in braces": ("a: {lr: 4.0e-3}   # x\n", ("a", "lr"), 0.5, ["-a: {lr: 4.0e-3}   # x", "+a: {lr: 0.5}   # x"]),
    "added in braces": ("a: {lr: 1.0 }\n", ("a", "wd"), 1e-05, ["-a: {lr: 1.0 }", "+a: {lr: 1.0, wd: 1.0e-05 }"]),
    "added to nothing": ("a: {}  # none\n", ("a", "b", "c"), True, ["-a: {}  # none", "+a: {b: {c: true}}  # none"]),
    "added below, before comments of what follows": (
        "runs:\n  a:\n    tasks: [x]   # one\n\n  # about b\n  b:\n    tasks: [y]\n",
        ("runs", "a", "training", "lr"), 1.5, ["+    training: {lr: 1.5}"],
    ),
    "added behind a list of lines": (
        "a:\n  tasks:\n  - x\n  - y\nb: 1\n", ("a", "training", "flip", "p"), None, ["+  training: {flip: {p: null}}"],
    ),
    "an empty section": ("a:\n  training:\n  b: 1\n", ("a", "training", "lr"), 1,
                         ["-  training:", "+  training: {lr: 1}"]),
    "no line end": ("a:\n  b: 1", ("a", "c"), "x", ["+  c: x"]),
    "windows": ("a:\r\n  b: 1 # é\r\nc: 2\r\n", ("a", "d"), "no", ['+  d: "no"']),
    "a mark of UTF-8": ("\ufeffa: 1\nb: 2\n", ("a",), 3, ["-\ufeffa: 1", "+\ufeffa: 3"]),
    "a mapping into a new section": ("a: 1 # x\n", ("t", "run"), {"n": 2, "of": {"a.lr": 1e-05}},
                                     ["+t:", "+  run: {n: 2, of: {a.lr: 1.0e-05}}"]),
    "a mapping into nothing": ("t: {}  # note\nb: 1\n", ("t", "run"), {"n": 2},
                               ["-t: {}  # note", "+t:     # note", "+  run: {n: 2}"]),
    "a mapping beside another": ("t:   # note\n  one: {n: 1}\n# end\n", ("t", "two"), {"n": 2}, ["+  two: {n: 2}"]),
    "a mapping for another": ("t:\n  one:\n    n: 1\n    of: {x: 2}  # x\n\nb: 1\n", ("t", "one"), {"n": 2},
                              ["-    n: 1", "-    of: {x: 2}  # x", "+    {n: 2}  # x"]),
    "a mapping, windows": ("a: 1\r\nt: {}\r\nb: 1\r\n", ("t", "x"), {"n": 2}, ["-t: {}", "+t:", "+  x: {n: 2}"]),
    "a section, windows": ("a: 1\r\n", ("t", "x"), {"n": 2}, ["+t:", "+  x: {n: 2}"]),
    "quoted": ("a: 'x: y' # '\n", ("a",), "p: q", ["-a: 'x: y' # '", '+a: "p: q" # \'']),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_only_the_value_changes(kind: str):
    text, path, value, expected = CASES[kind]
    edited = set_values(text, {path: value})
    assert changed(text, edited) == expected
    if text.endswith("\n"):
        assert edited.count("\r\n") in (0, edited.count("\n")), "one kind of line end"
    for read in (yaml.safe_load, YAML(typ="safe").load):
        found = read(edited.removeprefix("\ufeff"))
        for key in path:
            found = found[key]
        assert found == value and type(found) is type(value)


@pytest.mark.parametrize("profile", PROFILES)
def test_values_of_every_run_of_every_profile(profile: Path):
    text = profile.read_text(encoding="utf-8")
    runs = list(yaml.safe_load(text)["runs"])
    for run in dict.fromkeys([runs[0], runs[len(runs) // 2], runs[-1]]):
        place = ("runs", run, "training")
        values = {(*place, "lr"): 3.3e-05, (*place, "augmentation", "flip"): 0.25, (*place, "optimizer"): "sgd"}
        edited = set_values(text, values)
        lines = changed(text, edited)
        assert 1 <= len(lines) <= 4, lines
        assert [line for line in text.splitlines() if "#" in line and f"-{line}" not in lines] == [
            line for line in edited.splitlines() if "#" in line and f"+{line}" not in lines
        ]
        training = yaml.safe_load(edited)["runs"][run]["training"]
        assert (training["lr"], training["augmentation"]["flip"], training["optimizer"]) == (3.3e-05, 0.25, "sgd")
        assert set_values(edited, values) == edited, "what stands there already"


@pytest.mark.parametrize(
    "text",
    [
        "x: &x {lr: 1.0}\na: *x\n",
        "x: &x\n  lr: 1.0\na:\n  <<: *x\n  lr: *x\n",
    ],
)
def test_what_would_change_more_is_refused(text: str):
    with pytest.raises(ParamsError, match=r"a\.lr can't be set to 2\.0 in place .* write it there by hand"):
        set_values(text, {("a", "lr"): 2.0})


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -3, 0.1, 1e-05, 1.5e-300, 1e22, 1e16, "adam", "no", "null", "1e-3", "a: b", "", " x", "é",
     "it's"],
)  # fmt: skip
def test_both_readers_of_yaml_read_a_value_as_it_is(value: object):
    for read in (yaml.safe_load, YAML(typ="safe").load):
        found = read(f"a: {scalar(value)}\n")["a"]
        assert found == value and type(found) is type(value)
        assert read(f"a: {{b: {scalar(value)}}}\n")["a"]["b"] == value
