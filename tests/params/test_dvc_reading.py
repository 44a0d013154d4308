"""DVC and the stages mean the same by params.yaml: what they would read or compare otherwise is refused."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import parse_yaml

from pipeline.core.errors import ParamsError
from pipeline.params.load import load_params, parse_params
from pipeline.params.yaml_file import read_otherwise, read_yaml
from tests.stages.test_graph import leaves
from tests.support.params_tree import message, put, some_params

ROOT = Path(__file__).parents[2]
BOTH_ALIKE = ["3", "-3", "0x10", "true", "True", "false", "null", "~", "0.5", "1.0e-3", "word", "'010'", "'on'", "[1]"]
NUMBERS_AS_TEXT = ["1e-5", "1e+05", "1.5e3", "1e1"]  # what `dvc exp run -S` writes; a number once it is one of params
OTHERWISE = ["0o10", "on", "off", "yes", "No", ".nan"]
OTHER_BASES = ["010", "1:30", "1:30.5"]  # refused as they are read


def problems(tmp_path: Path, scalar: str) -> list:
    path = tmp_path / "mine.yaml"
    path.write_text(f"key:\n  list: [{scalar}]\n")
    return read_otherwise(path)


@pytest.mark.parametrize("scalar", BOTH_ALIKE + NUMBERS_AS_TEXT + OTHERWISE + OTHER_BASES)
def test_what_dvc_reads_otherwise_is_found(tmp_path, scalar):
    """By DVC's own reader; nan differs from itself, so that DVC would never find it unchanged."""
    ours, theirs = yaml.safe_load(f"key: {scalar}")["key"], parse_yaml(f"key: {scalar}", "mine.yaml")["key"]
    same = type(ours) is type(theirs) and ours == theirs
    assert same == (scalar in BOTH_ALIKE)
    if scalar in NUMBERS_AS_TEXT:
        assert float(ours) == theirs
    if scalar in OTHER_BASES:
        said = (
            f"line 2: ('{scalar}' is a number in base (8|60) in YAML|DVC can't read it: found unexpected ':'; put text)"
        )
        with pytest.raises(ParamsError, match=said):
            problems(tmp_path, scalar)
        return
    found = problems(tmp_path, scalar)
    assert [problem.path for problem in found] == (["key.list[0]"] if scalar in OTHERWISE else [])


@pytest.mark.parametrize("key", ["010", "on", "1e1", "2024-01-01"])
def test_a_key_that_is_no_text_for_both_is_found(tmp_path, key):
    path = tmp_path / "mine.yaml"
    path.write_text(f"runs: {{{key}: 1}}\n")
    if key in ("010", "2024-01-01"):
        with pytest.raises(ParamsError, match=r"base 8|a key must be a plain name|date"):
            read_yaml(path)
    else:
        assert len(read_otherwise(path)) == 1


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("training.epochs", "010", "'010' is a number in base 8 in YAML"),
        ("training.deterministic", "on", "training.deterministic: reads as true here and 'on' in DVC"),
        ("data.limit", "1:30", "'1:30' is a number in base 60 in YAML"),
        ("training.lr", ".nan", "training.lr: reads as not a number, which DVC takes for changed each time"),
        ("seeds", "[010]", "'010' is a number in base 8 in YAML"),
        ("seeds", "[0o10]", "seeds[0]: "),
    ],
)
def test_a_params_file_that_dvc_reads_otherwise_is_refused(tmp_path, path, text, says):
    raw = some_params()
    put(raw, path, "PLACE")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(raw).replace("PLACE", text))
    with pytest.raises(ParamsError) as caught:
        load_params(file)
    assert says in str(caught.value)


@pytest.mark.parametrize("file", [*(ROOT / "profiles").glob("*.yaml"), ROOT / "pipeline/params/defaults.yaml"], ids=str)
def test_no_file_of_ours_is_read_otherwise(file):
    assert not read_otherwise(file)


# -- seeds and names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["1", "1_2", "1-2", "01", 1.0, "1e1", True])
def test_a_seed_that_would_name_another_stage_is_refused(seed):
    """DVC makes train@<run>-<seed> of what it reads, the stage's files are named by the number."""
    raw = some_params()
    put(raw, "seeds", [seed])
    assert "must be a whole number in plain digits" in message(raw)


def test_no_two_runs_and_seeds_are_one_stage_to_dvc():
    raw = some_params()
    for name in ("x", "x-1", "x-1-2", "x-12", "x_1"):
        put(raw, f"runs.{name}", raw["runs"]["depth"])
    put(raw, "seeds", [0, 1, 2, 12, 21, 212])
    params = parse_params(raw)
    stages = [params.run(name).stage("train", seed) for name in params.runs for seed in params.seeds]
    assert len(stages) == len(set(stages)) == 7 * 6


# -- values that are equal for DVC ---------------------------------------------------------------------------

# Each key of params, with a value; and of a run's own.
KEYS = leaves(yaml.safe_load((ROOT / "params.yaml").read_text()))


@pytest.mark.parametrize("key", KEYS)
def test_no_key_takes_a_number_and_a_flag(key):
    """1 and true, 0 and false are equal for DVC, which compares values as Python does: it would rerun nothing."""

    def takes(value: object) -> bool:
        raw = yaml.safe_load((ROOT / "params.yaml").read_text())
        put(raw, key, [value] if isinstance(KEYS[key], list) else value)
        try:
            parse_params(raw)
        except ParamsError:
            return False
        return True

    for number, flag in product((0, 1, 0.0, 1.0), (False, True)):
        if number == flag:
            assert not (takes(number) and takes(flag)), (number, flag)
    assert not takes(float("nan"))


@pytest.mark.parametrize("file", [*sorted((ROOT / "profiles").glob("*.yaml"))], ids=lambda file: file.stem)
def test_what_dvc_writes_still_reads_rightly(tmp_path, file):
    """`dvc exp run -S` writes the file anew: lists a line an item, nulls blank. No comment may come between them."""
    copy = tmp_path / "params.yaml"
    copy.write_text(file.read_text())
    run = next(iter(load_params(file).runs))
    apply_overrides(copy, ["seeds=[0,3]", f"runs.{run}.tasks=[semseg]", "training.epochs=3"])
    text = copy.read_text()
    assert parse_yaml(text, str(copy))["seeds"] == [0, 3]
    assert re.search(r"^seeds:.*\n\n?- 0\n- 3\n\n?runs:  ", text, re.MULTILINE), "a comment of runs stands under seeds"
    assert re.search(r"^runs:.*\n(  #.*\n)+  \w+:$", text, re.MULTILINE)
    assert re.search(r"^runs_from_single_task:.*#", text, re.MULTILINE) or "\nruns_from_single_task:\n  #" in text
