"""`stages.search` with real trainings of a tiny network: what it reads, records, prints and writes."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

import stages.search
from pipeline.core import paths
from pipeline.core.errors import ParamsError
from pipeline.data import store as data_store
from pipeline.data.store import Store
from pipeline.datasets.packing_inputs import packing_inputs
from pipeline.params.load import load_params
from pipeline.search import run as search_run
from pipeline.search.run import opened, plan_of, runs_to_search
from pipeline.search.storage import Place
from pipeline.search.study import SharedStudy
from pipeline.tracking.address import tracking_uri
from pipeline.train import train_run
from stages._entry import run_stage
from tests.support.searched import INFO, PARAMS, make_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with prepared data, of which there is no val split at all."""
    return make_project(tmp_path_factory.mktemp("template"))


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(folder)
    return folder


def search(*arguments: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*")
    for option in ("--apply", "--restart"):
        parser.add_argument(option, action="store_true")
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.search.main, parser=parser, argv=list(arguments))
    return ended.value.code


def edit(**search: object) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["search"] |= search
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def children() -> tuple[list, list]:
    """Runs of studies, and of trials."""
    client = MlflowClient(tracking_uri())
    experiments = [each.experiment_id for each in client.search_experiments()]
    every = client.search_runs(experiments)
    return [each for each in every if "search_kind" in each.data.tags], [
        each for each in every if "search_trial" in each.data.tags
    ]


def trials(name: str) -> list:
    with opened(load_params(), name) as study:
        return study.trials()


def test_a_search_never_opens_the_split_that_is_reported(project, monkeypatch, capsys):
    """There is none on disk, and what opens a split refuses any but train."""
    opens = []

    class Guarded(Store):
        def __init__(self, folder: Path, *arguments, **options):
            opens.append(Path(folder).name)
            assert Path(folder).name == "train", f"a trial opened {folder}"
            super().__init__(folder, *arguments, **options)

    for module in (train_run, data_store):
        monkeypatch.setattr(module, "Store", Guarded)
    for evaluation in (None, "train_holdout"):
        raw = yaml.safe_load(PARAMS)
        raw["evaluation"] |= {"select_on": evaluation}
        raw["training"] |= {"validate_every": 1}
        raw["search"] |= {"trials": 2, "study": f"select on {evaluation}"}
        Path("params.yaml").write_text(yaml.safe_dump(raw))
        assert search("depth") == 0, capsys.readouterr()
    assert opens and set(opens) == {"train"}
    with pytest.raises(AssertionError, match="a trial opened"):
        train_run._stores(load_params().run("depth"), selects=False)


def test_trials_are_children_of_their_studys_run(project, capsys):
    edit(trials=3)
    assert search("pair") == 0, capsys.readouterr()
    [study], found = children()
    assert {each.data.tags["mlflow.parentRunId"] for each in found} == {study.info.run_id}
    assert study.info.run_name == "search pair" and study.info.status == "FINISHED"
    assert sorted(each.info.run_name for each in found) == [f"pair-trial-{i}" for i in range(4)]
    assert {each.info.status for each in found} == {"FINISHED"}
    record = {each.number: each for each in trials("pair")}
    for each in found:
        trial = record[int(each.data.tags["search_trial"])]
        assert each.data.tags["search_state"] in ("complete", "pruned")
        assert "run" not in each.data.tags, "no result of a run is taken for a trial, or the other way round"
        if trial.params:
            assert each.data.params["training.lr"] == repr(float(f"{trial.params['training.lr']:.3g}"))
            assert each.data.params["training.optimizer"] == trial.params["training.optimizer"]
        if trial.state.name == "COMPLETE":
            assert each.data.metrics["objective"] == trial.value
        history = MlflowClient(tracking_uri()).get_metric_history(each.info.run_id, "holdout/depth/rmse")
        assert 1 <= len(history) <= 2
    assert not list(Path(".").glob("models/*")) and not Path("reports").exists()


def test_the_table_the_diff_and_what_is_applied(project, capsys):
    assert search("depth") == 0
    printed = capsys.readouterr().out
    assert "study tiny/depth in .runs/search/depth-" in printed and "relative_gain" in printed
    assert Path("params.yaml").read_text() == PARAMS, "nothing is written unless asked"
    assert search("depth", "--apply") == 0
    again = capsys.readouterr().out
    assert "depth trial" not in again, "a study that is whole trains nothing"
    best = max((each for each in trials("depth") if each.value is not None), key=lambda each: each.value).params
    after = Path("params.yaml").read_text()
    [old] = [line for line in PARAMS.splitlines() if line not in after.splitlines()]
    [new, *tuned] = [line for line in after.splitlines() if line not in PARAMS.splitlines()]
    assert old == "  depth: {architecture: single_task, tasks: [depth]}     # one"
    assert new.startswith(
        f"  depth: {{architecture: single_task, tasks: [depth], training: {{lr: {best['training.lr']:.3g}"
    )
    assert new.endswith("# one")
    assert tuned[0] == "tuned:" and tuned[1].startswith("  depth: {trials: 4, epochs: 2, values: {training.lr: ")
    assert after.replace(new, old) == PARAMS + "".join(f"{line}\n" for line in tuned), "every other byte is as it was"
    assert f"+{new}" in again and f"-{old}" in again
    found = load_params()
    assert (
        found.run("depth").training.lr
        == float(f"{best['training.lr']:.3g}")
        == found.tuned["depth"].values["training.lr"]
    )
    assert search("depth", "--apply") == 0, "values of the space are no other study"
    assert Path("params.yaml").read_text() == after


def test_an_option_of_a_balancing_method_is_searched_and_applied(project, capsys):
    text = PARAMS.replace("training.optimizer: [adam, adamw]}", "balancing.c: [0.1, 0.9]}").replace(
        "lr: 1.0e-6", "lr: 1.0e-3"
    )
    text = text.replace("[semseg, depth]\n  depth", "[semseg, depth]\n    balancing: {method: cagrad}\n  depth")
    Path("params.yaml").write_text(text)
    assert search("pair", "--apply") == 0
    tried = [each.params for each in trials("pair") if each.params]
    assert len(tried) == 4 and {each["balancing.c"] for each in tried} <= {0.1, 0.9}
    best = max((each for each in trials("pair") if each.value is not None), key=lambda each: each.value).params
    assert load_params().run("pair").balancing.options == ({"c": best["balancing.c"]} if best else {})


def test_values_that_fit_the_run_in_part_alone_begin_a_study(project, capsys):
    """A batch of 6 has no 4 parts: that trial ends early, and the others are trained."""
    edit(space={"training.batch_size": [6, 8], "training.accumulate": [4, 2]}, trials=4)
    assert search("depth") == 0
    assert "6 are not possible" in capsys.readouterr().out


def test_nothing_is_applied_while_other_workers_train(project, capsys):
    edit(trials=1)
    before = Path("params.yaml").read_text()
    assert search("depth") == 0
    other = SharedStudy(Place.of("tiny/depth", None, "depth"), plan_of(load_params(), "depth"))
    other.plan = replace(other.plan, trials=2)
    assert other.next_trial()[1]
    capsys.readouterr()
    assert search("depth", "--apply") == 2
    said = capsys.readouterr()
    assert "other workers still train some of its trials: nothing was written; give --apply again when" in said.err
    assert search("depth") == 0
    assert "other workers still train some of its trials: run it again to see the end" in capsys.readouterr().out
    assert search("depth", "--restart") == 2
    assert "1 other worker uses it, so it can't be removed" in capsys.readouterr().err
    assert Path("params.yaml").read_text() == before
    other.close()


def test_a_trial_with_the_values_of_the_run_scores_as_the_run(project, capsys):
    """Nothing but its values tells a trial from the run as it stands."""
    edit(space={"training.lr": [1e-6, 1e-3], "training.optimizer": ["adam", "adamw"]}, trials=4, objective="depth")
    assert search("depth") == 0
    first, *rest = trials("depth")
    assert first.params == {"training.lr": 1e-6, "training.optimizer": "adam"} and first.user_attrs["as_it_stands"]
    complete = [tuple(each.params.values()) for each in (first, *rest) if each.state.name == "COMPLETE"]
    assert len(complete) == len(set(complete)) == 4, "all combinations, each once"
    edit(space={"training.weight_decay": [0.0, 0.1], "training.lr": [1e-6, 1e-3]}, study="other")
    assert search("depth") == 0
    values = {tuple(each.params.values()): each.value for each in (first, *rest) if each.state.name == "COMPLETE"}
    others = {tuple(each.params.values()): each.value for each in trials("depth") if each.state.name == "COMPLETE"}
    assert others[0.0, 1e-3] == values[1e-3, "adam"] and others[0.0, 1e-6] == values[1e-6, "adam"]


def test_a_trial_that_diverges_ends_early_and_the_search_continues(project, capsys):
    edit(space={"training.lr": [1e30, 1e-3, 1e-4]}, trials=3)
    assert search("depth") == 0, capsys.readouterr()
    ended = [each for each in trials("depth") if each.params and "repeats" not in each.user_attrs]
    states = {each.params["training.lr"]: each.state.name for each in ended}
    assert states == {1e30: "PRUNED", 1e-3: "COMPLETE", 1e-4: "COMPLETE"}
    assert "ended early: the loss of depth is" in capsys.readouterr().out
    _, found = children()
    assert sorted(each.info.status for each in found) == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]


def test_trials_that_promise_less_than_the_median_are_pruned(project, monkeypatch, capsys):
    import optuna

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda: optuna.pruners.ThresholdPruner(lower=1e9))
    assert search("depth") == 0
    states = [each.state.name for each in trials("depth")]
    assert states == ["FAIL", *["PRUNED"] * 4]
    assert all(list(each.intermediate_values) == [1] for each in trials("depth")[1:])
    assert "pruned after epoch 1" in capsys.readouterr().out


def test_an_interrupt_puts_the_trial_back_and_ends_with_130(project, monkeypatch, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    train, calls = search_run.train_trial, []

    def interrupted(*arguments) -> None:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), 2)
        train(*arguments)

    monkeypatch.setattr(search_run, "train_trial", interrupted)
    assert search("depth") == 130
    _, found = children()
    assert sorted(each.info.status for each in found) == ["FINISHED", "KILLED"]
    before = [each for each in trials("depth") if each.state.name == "WAITING"]
    assert len(before) == 1
    assert search("depth") == 0
    assert [each.params for each in trials("depth") if each.number == before[0].number] == [before[0].params]
    assert sum(each.state.name == "COMPLETE" or each.state.name == "PRUNED" for each in trials("depth")) == 4


def test_an_edit_of_what_a_trial_depends_on_is_refused_by_name(project, capsys):
    edit(trials=1)
    assert search("depth") == 0
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["training"]["weight_decay"] = 0.5
    raw["search"]["budget"] = 1
    raw["search"]["trials"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    capsys.readouterr()
    assert search("depth") == 2
    said = capsys.readouterr().err
    assert "param training.weight_decay: 0.0 -> 0.5" in said and "search.budget: None -> 1" in said
    assert "give another name in search.study, or remove this study by --restart" in said
    assert search("depth", "--restart") == 0
    file = Path("pipeline/train/augment.py")
    file.write_text(file.read_text() + "# another\n")
    assert search("depth") == 2
    assert "file pipeline/train/augment.py:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("search_section", "asked", "said"),
    [
        ({"space": {}}, [], "params: search.space is empty; say what is to be searched, such as {training.lr: {low"),
        ({}, ["dept"], "params: unknown run 'dept'; did you mean 'depth'? Allowed: pair, depth"),
        ({"objective": "semseg"}, ["depth"], "run depth: search.objective is semseg, and its tasks are depth"),
        (
            {"space": {"training.task_weights.depth": [1.0, 2.0]}},
            ["depth"],
            "run depth: search.space has no key for its",
        ),
    ],
)
def test_what_can_not_be_searched_is_refused(project, search_section, asked, said):
    edit(**search_section)
    with pytest.raises(ParamsError) as caught:
        runs_to_search(load_params(), asked)
    assert str(caught.value).startswith(said)


def test_runs_that_a_search_is_not_about_are_left_out(project, capsys):
    edit(objective="semseg")
    assert runs_to_search(load_params(), []) == ["pair"]
    assert capsys.readouterr().out == "run depth is left out: search.objective is semseg, and its tasks are depth\n"


def test_data_that_were_packed_with_other_params_are_refused(project, capsys):
    def packed() -> None:
        lines = packing_inputs(load_params().data).lines
        paths.write_json(paths.PACKED_FROM, {"data": [INFO["digest"]], "inputs": lines})

    edit(trials=1, objective="depth")
    packed()
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["data"]["limit"] = 5
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    assert search("depth") == 2
    assert capsys.readouterr().err == (
        "data/prepared was packed with another value of data.limit: run `dvc repro prepare` first\n"
    )
    packed()
    assert search("depth") == 0


def test_without_prepared_data_one_line_says_so(project, capsys):
    shutil.rmtree(paths.PREPARED)
    assert search("depth") == 2
    assert "dvc repro" in capsys.readouterr().err
