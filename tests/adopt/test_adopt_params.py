"""`runs.<run>.adopted`: what params may say, and how the command writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import stages.adopt
from pipeline.adopt import declare
from pipeline.core.errors import DataError, ParamsError
from pipeline.params.load import parse_params
from pipeline.params.rules import missing_files
from pipeline.search.run import runs_to_search
from tests.support import narrow_hrnet, released_names
from tests.support.adopted import info_of
from tests.support.params_tree import put, some_params

SHA = "ab" * 32
FILE = {"file": "checkpoints/a.pth", "sha256": SHA}


def with_run(adopted: object, family: str = "runs", **values: object) -> dict:
    raw = some_params()
    put(raw, "seeds", [0, 1])
    raw["data"] |= {"dataset": "rooms", "tasks": ["semseg", "depth"]}
    raw["runs"] = {task: {"architecture": "single_task", "tasks": [task]} for task in ("semseg", "depth")}
    run = {"architecture": "cross_stitch", "tasks": ["semseg", "depth"], "adopted": adopted, **values}
    raw["runs_from_single_task"] = {}
    raw[family] = raw[family] | {"both": run}
    return raw


def says(raw: dict) -> str:
    with pytest.raises(ParamsError) as error:
        parse_params(raw)
    return str(error.value)


def test_a_file_for_each_seed():
    params = parse_params(with_run({"0": FILE, "1": FILE | {"sha256": "cd" * 32}}))
    run = params.run("both")
    assert [run.adopted[seed].sha256 for seed in params.seeds] == [SHA, "cd" * 32]
    assert not list(missing_files(params)) and not params.run("semseg").adopted
    assert params.flat("both")["adopted.1.file"] == "checkpoints/a.pth"
    assert not [key for key in params.flat("semseg") if key.startswith("adopted")]


def test_a_seed_without_a_file_is_refused_with_the_command():
    (problem,) = missing_files(parse_params(with_run({"1": FILE})))
    assert problem.path == "runs.both.adopted"
    assert "no file for seed 0 of seeds; `python -m stages.adopt FILE --as both --seed 0`" in problem.text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (with_run({"first": FILE}), 'runs.both.adopted.first: got \'first\'; must be a seed in quotes, such as "0"'),
        (with_run({"0": {"file": "a.pth"}}), "runs.both.adopted.0.sha256: missing"),
        (with_run({"0": FILE | {"sha256": "12"}}), "must be the 64 hexadecimal digits"),
        (with_run({"0": FILE | {"fil": "a"}}), "runs.both.adopted.0.fil: unknown key; did you mean"),
        (with_run({"0": FILE}, "runs_from_single_task"), "runs_from_single_task.both.adopted: these runs start from"),
        (with_run({"0": FILE}, balancing={"method": "uw"}), "runs.both.balancing: got uw; an adopted run is not"),
    ],
)  # fmt: skip
def test_what_is_refused(raw, text):
    assert text in says(raw)


def test_the_choice_of_epochs_is_no_matter_to_it():
    raw = with_run({"0": FILE, "1": FILE})
    put(raw, "evaluation.select_on", "train_holdout")
    put(raw, "training.validate_every", 1)
    raw["runs"]["both"]["training"] = {"validate_every": None}
    assert parse_params(raw).run("both").adopted


def test_nothing_of_it_is_searched():
    raw = with_run({"0": FILE, "1": FILE})
    raw["search"] = {"space": {"training.lr": [0.1, 0.2]}}
    params = parse_params(raw)
    assert runs_to_search(params, []) == ["semseg", "depth"]
    with pytest.raises(ParamsError, match="run both: it is adopted, so no trial of it could be trained"):
        runs_to_search(params, ["both"])


# ---- the command -------------------------------------------------------------------------------------------------

TEXT = """\
# A profile
data: {dataset: rooms, tasks: [semseg, depth]}   # what is packed
training:
  backbone: hrnet_narrow
  input_size: [64, 96]
  batch_size: 2
  epochs: 1
  lr: 1.0e-3
seeds: [0, 1]
runs:
  theirs:
    architecture: multi_task   # theirs
    tasks: [semseg, depth]

  flow: {architecture: multi_task, tasks: [semseg, depth]}   # in braces
"""


@pytest.fixture
def project(in_tmp, monkeypatch):
    (in_tmp / "params.yaml").write_text(TEXT)
    (in_tmp / "checkpoints").mkdir()
    config = {"widths": narrow_hrnet.WIDTHS, "modules": (1, 1, 1), "blocks": 1, "first": (4, 1), "stem": 8}
    state = released_names.random_state(released_names.baseline({"semseg": 5, "depth": 1}, config))
    torch.save(state, in_tmp / "checkpoints/best.pth")
    monkeypatch.setattr(declare, "read_info", lambda: info_of({"semseg": 5, "depth": 1}))
    return in_tmp


def adopt(run: str, seed: int | None) -> bool:
    params = parse_params(yaml.safe_load(Path("params.yaml").read_text()))
    chosen, found = declare.check(params, Path("checkpoints/best.pth"), run, seed, None)
    return declare.declare(run, chosen, found)


@pytest.mark.parametrize("run", ["theirs", "flow"])
def test_the_entry_is_written_and_nothing_else(project, run):
    assert adopt(run, 0) and adopt(run, 1) and not adopt(run, 1)
    text = (project / "params.yaml").read_text()
    adopted = yaml.safe_load(text)["runs"][run]["adopted"]
    assert list(adopted) == ["0", "1"] and adopted["0"] == adopted["1"]
    assert adopted["0"]["file"] == "checkpoints/best.pth"
    kept = [line for line in TEXT.splitlines() if line in text.splitlines()]
    assert len(kept) >= len(TEXT.splitlines()) - 1 and "# in braces" in text and "# theirs" in text


def test_what_the_command_refuses(project):
    with pytest.raises(ParamsError, match="seeds are 0, 1; say by --seed whose file this is"):
        adopt("theirs", None)
    with pytest.raises(ParamsError, match="--seed 2 is none of seeds"):
        adopt("theirs", 2)
    with pytest.raises(ParamsError, match=r"unknown run 'their'; did you mean 'theirs'.*Declare it in runs first"):
        adopt("their", 0)
    assert (project / "params.yaml").read_text() == TEXT


def test_the_command_says_which_seed_lacks_its_file(project, capsys):
    def command(seed: int) -> str:
        params = parse_params(yaml.safe_load(Path("params.yaml").read_text()))
        stages.adopt.main(params, Path("checkpoints/best.pth"), "theirs", seed)
        return capsys.readouterr().out.splitlines()[-1]

    assert command(1) == (
        "written to params.yaml: runs.theirs.adopted.1. Before `dvc repro`: runs.theirs.adopted: no file for seed 0 of "
        "seeds; `python -m stages.adopt FILE --as theirs --seed 0` adopts one, or take it out of seeds"
    )
    assert command(0) == "written to params.yaml: runs.theirs.adopted.0. Now `dvc repro` scores and compares it"


def test_data_must_be_prepared(in_tmp):
    (in_tmp / "params.yaml").write_text(TEXT)
    torch.save({"decoder.x": torch.ones(1)}, "best.pth")
    params = parse_params(yaml.safe_load(TEXT))
    with pytest.raises(DataError, match="run `dvc repro prepare` first"):
        declare.check(params, Path("best.pth"), "theirs", 0, None)
