from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipeline.core import names
from pipeline.core.errors import ParamsError
from pipeline.params.load import load_params, parse_params
from pipeline.params.schema import DEFAULTS, Params, Training
from stages.check import warnings
from tests.support.params_tree import message, put, some_params

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def raw() -> dict:
    return some_params()


# -- what is right -----------------------------------------------------------------------------------------


def test_the_active_experiment_is_the_rooms_profile():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "profiles/rooms.yaml").read_text()


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_profiles_are_valid_and_name_every_knob(profile: Path):
    params = load_params(profile)
    written = yaml.safe_load(profile.read_text())
    assert set(written) == set(Params.model_fields)
    assert set(written["training"]) == set(Training.model_fields)
    assert all(params.run(name).training.epochs for name in params.all_runs)


def test_overrides_merge_key_by_key(raw):
    params = parse_params(raw)
    run = params.run("both")
    assert (run.training.lr, params.run("depth").training.lr) == (1e-4, 1e-3)
    assert run.training.task_weights == dict.fromkeys(names.TASKS, 1.0) | {"depth": 2.0, "semseg": 3.0}
    assert (run.training.augmentation.flip, run.training.augmentation.scale) == (0.25, (1.0, 2.0))
    assert run.training.epochs == 3
    assert run.all_tasks == ("semseg", "depth", "edge")
    assert params.training.lr == 1e-3, "the common recipe is not touched"


def test_numbers_as_text_become_numbers(raw):
    """What `dvc exp run -S runs.both.training.lr=1e-5` writes, as a YAML 1.1 loader reads it."""
    text = yaml.safe_load("{lr: 1e-05, epochs: '7'}")
    assert text["lr"] == "1e-05"
    raw["runs"]["both"]["training"] |= text
    raw["training"]["weight_decay"] = "1e-4"
    training = parse_params(raw).run("both").training
    assert (training.lr, training.epochs, training.weight_decay) == (1e-5, 7, 1e-4)


def test_values_never_change(raw):
    with pytest.raises(ValidationError, match="frozen"):
        parse_params(raw).training.lr = 1.0


@pytest.mark.parametrize("value", [False, True, "weights/backbone.pth"])
def test_pretrained(raw, value):
    put(raw, "training.pretrained", value)
    assert parse_params(raw).training.pretrained == value


def test_flat_is_scalars_under_dotted_keys(raw):
    flat = parse_params(raw).flat("both")
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    assert flat["tasks"] == "semseg, depth"
    assert flat["training.lr"] == 1e-4
    assert flat["training.task_weights.depth"] == 2.0
    assert flat["options.att"] is False
    assert "training.task_weights.sal" not in flat, "a task that the run does not train"
    assert flat["data.rooms.seed"] == 0


def test_what_people_compare_is_what_was_chosen(raw):
    """What defaults.yaml says too is left out, unless everybody compares it, or the run's own entry says it."""
    usual, compared = parse_params(raw).flat("both"), parse_params(raw).shown("both")
    assert compared.items() <= usual.items()
    assert {"architecture", "tasks", "data.dataset", "training.lr", "training.epochs", "training.backbone"} <= set(
        compared
    )
    assert compared["options.att"] is False and "training.optimizer" in compared
    assert not {"training.power", "training.cuda_graph", "evaluation.panels", "from_single_task"} & set(compared)
    put(raw, "training.power", 0.5)
    assert parse_params(raw).shown("both")["training.power"] == 0.5
    put(raw, "training.power", DEFAULTS["training"]["power"])
    put(raw, "runs.both.training", {"power": DEFAULTS["training"]["power"]})
    assert "training.power" in parse_params(raw).shown("both")
    assert "training.power" not in parse_params(raw).shown("depth")


def test_one_task_alone_has_weight_1_and_several_those_of_the_recipe(raw):
    params = parse_params(raw)
    assert params.training.task_weights["depth"] == 2.0
    assert params.run("depth").loss_weights == {"depth": 1.0}
    assert params.run("both").loss_weights == {"semseg": 3.0, "depth": 2.0, "edge": 1.0}
    assert params.flat("depth")["training.task_weights.depth"] == 1.0
    put(raw, "training.task_weights", {"depth": 7.0})
    assert parse_params(raw).run("depth").loss_weights == {"depth": 1.0}
    assert parse_params(raw).run("both").loss_weights["depth"] == 7.0


def test_a_weight_that_would_be_ignored_is_refused(raw):
    put(raw, "runs.depth.training", {"task_weights": {"depth": 5.0}})
    assert message(raw).startswith(
        "params.yaml: runs.depth.training.task_weights: depth alone has no other loss to balance, so its weight is 1; "
        "remove it"
    )


def test_flat_leaves_other_datasets_out(raw):
    put(raw, "data", {"dataset": "ccp", "tasks": ["sal"]})
    raw["runs"] = {"sal": {"architecture": "single_task", "tasks": ["sal"]}}
    assert not [key for key in parse_params(raw).flat("sal") if key.startswith("data.rooms")]


def test_batches_are_split_in_equal_parts(raw):
    put(raw, "runs.both.training", {"batch_size": 6, "accumulate": 3})
    assert parse_params(raw).run("both").training.accumulate == 3
    put(raw, "training.accumulate", 3)
    assert message(raw).startswith("params.yaml: training.accumulate: 3 equal parts of batch_size 4 are not possible")
    put(raw, "training.accumulate", 2)
    put(raw, "runs.both.training", {"batch_size": 5})
    assert message(raw).startswith("params.yaml: runs.both.training.accumulate: 2 equal parts of batch_size 5")


# -- what is wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("training.lrr", 1, "training.lrr: unknown key; did you mean training.lr?"),
        ("trainning", {}, "trainning: unknown key; did you mean training?"),
        ("training.cuda_graph", "maybe", "training.cuda_graph: got 'maybe'; must be auto, true or false"),
        ("training.compile", "auto", "training.compile: got 'auto'; must be true or false"),
        ("training.accumulate", 0, "training.accumulate: got 0; must be greater than or equal to 1"),
        ("training.clip_norm", 0, "training.clip_norm: got 0; must be greater than 0"),
        ("training.cpu_threads", 0, "training.cpu_threads: got 0; "),
        ("training.cpu_threads", True, "training.cpu_threads: got true; must be a number, not true or false"),
        ("training.deterministic", "yes", "training.deterministic: got 'yes'; must be true or false"),
        ("data.epochs", 1, "data.epochs: unknown key; did you mean training.epochs?"),
        ("data.rooms.sede", 1, "data.rooms.sede: unknown key; did you mean data.rooms.seed?"),
        ("runs.both.option", 1, "runs.both.option: unknown key; did you mean runs.both.options?"),
        (
            "runs.both.training.epoch",
            1,
            "runs.both.training.epoch: unknown key; did you mean runs.both.training.epochs?",
        ),
        ("training.lr", -1, "training.lr: got -1; must be greater than 0"),
        ("training.lr", "fast", "training.lr: got 'fast'; must be a number"),
        ("training.lr", True, "training.lr: got true; must be a number, not true or false"),
        ("training.lr", float("nan"), "training.lr: got nan; must be"),
        ("checkpoint_minutes", 0, "checkpoint_minutes: got 0; must be greater than 0"),
        ("training.epochs", 2.5, "training.epochs: got 2.5; must be a whole number"),
        ("training.epochs", None, "training.epochs: got null; must be a whole number"),
        ("training.batch_size", 0, "training.batch_size: got 0; must be greater than or equal to 1"),
        ("training.optimizer", "adm", "training.optimizer: got 'adm'; must be 'adam', 'adamw' or 'sgd'"),
        ("training.deep_supervision", 1, "training.deep_supervision: got 1; must be true or false"),
        ("training.pretrained", 3, "training.pretrained: got 3; must be false, true"),
        ("training.input_size", [64], "training.input_size: got [64]; must have at least 2 items"),
        (
            "training.input_size",
            [64, 16],
            "training.input_size[1]: got 16; must be greater than or equal to 32",
        ),
        (
            "training.augmentation.flip",
            1.5,
            "training.augmentation.flip: got 1.5; must be less than or equal to 1",
        ),
        ("training.augmentation.scale_mode", "range", "needs scale: [lowest, highest], got [1.0]"),
        ("training.task_weights", {"dept": 1}, "unknown task 'dept'; did you mean 'depth'?"),
        ("training.task_weights", {"depth": 0}, "training.task_weights.depth: got 0; must be greater than 0"),
        ("runs.both.training.lr", "x", "runs.both.training.lr: got 'x'; must be a number"),
        ("runs.both.training", 3, "runs.both.training: got 3; must be keys and values"),
        ("runs.both.architecture", "single", "unknown architecture 'single'; did you mean 'single_task'?"),
        ("runs.both.options", {"ctm": True}, "'ctm'; did you mean 'ctam'?"),
        ("runs.both.options", {"att": 1}, "runs.both.options.att: got 1; must be one of true, false"),
        ("runs.both.options", {"fpma_mask": "task"}, "fpma_mask: got 'task'; must be one of channels, tasks"),
        (
            "runs.both.tasks",
            ["semseg", "sal"],
            "runs.both.tasks: sal is not in data.tasks (semseg, depth, edge)",
        ),
        ("runs.both.tasks", ["semseg", "semseg"], "must not repeat semseg"),
        ("runs.both.tasks", "semseg", "runs.both.tasks: got 'semseg'; must be a list"),
        ("runs.both.auxiliary_tasks", ["depth"], "runs.both.auxiliary_tasks: depth is in tasks too"),
        ("runs.depth.tasks", ["depth", "semseg"], "single_task takes exactly 1"),
        ("runs.depth.auxiliary_tasks", ["semseg"], "single_task takes exactly 1"),
        ("runs.depth.architecture", "sequential_attention", "sequential_attention takes 2 or more"),
        ("runs.depth.architecture", "multi_task", "multi_task takes 2 or more"),
        ("runs", {}, "runs: must have at least 1 item"),
        ("seeds", [], "seeds: got []; must have at least 1 item"),
        ("seeds", [1, 1], "seeds: got [1, 1]; must not repeat 1"),
        ("seeds", [-1], "seeds[0]: got -1; must be greater than or equal to 0"),
        ("seeds", [2**32], "seeds[0]: got 4294967296; must be less than"),
        ("data.dataset", "room", "unknown dataset 'room'; did you mean 'rooms'?"),
        ("data.dataset", "ccp", "data.tasks: ccp has no semseg labels; it has human_parts, sal, edge"),
        ("data.limit", 0, "data.limit: got 0; must be greater than or equal to 1"),
        ("evaluation.allow_different", ["backbone"], "unknown training value 'backbone'"),
    ],
)
def test_a_wrong_value_is_named(raw, path, value, says):
    put(raw, path, value)
    text = message(raw)
    assert text.startswith("params.yaml: ")
    assert says in text


@pytest.mark.parametrize(
    "name", ["Both", "a b", "a.b", "a/b", "a-", "-a", "a--b", "3d", "", "é", "a" * 61, "a\n"], ids=repr
)
def test_unsafe_run_names_are_refused(raw, name):
    raw["runs"][name] = raw["runs"]["depth"]
    assert "a run's name is a letter, then a-z" in message(raw)


@pytest.mark.parametrize("name", ["a", "multi_task", "sca-per-task", "sca_2-1"])
def test_safe_run_names(raw, name):
    raw["runs"][name] = raw["runs"]["depth"]
    assert parse_params(raw).run(name).name == name


@pytest.mark.parametrize("key", ["data", "training", "seeds", "runs", "training.lr", "runs.depth.tasks"])
def test_a_missing_value_is_told(raw, key):
    *parents, last = key.split(".")
    tree = raw
    for parent in parents:
        tree = tree[parent]
    del tree[last]
    assert f"{key}: missing" in message(raw)


def test_every_problem_is_told_once_in_one_message(raw):
    put(raw, "training.lr", -1)
    put(raw, "training.epoch", 3)
    put(raw, "seeds", [])
    put(raw, "runs.both.training", {"momentum": 1})
    lines = message(raw).splitlines()
    assert lines[0] == "params.yaml: 4 problems"
    assert sorted(line.split(":")[0].strip() for line in lines[1:]) == [
        "runs.both.training.momentum",
        "seeds",
        "training.epoch",
        "training.lr",
    ]


def test_the_input_is_left_alone(raw):
    before = copy.deepcopy(raw)
    parse_params(raw).run("both")
    assert raw == before


def test_unknown_run(raw):
    with pytest.raises(ParamsError, match="unknown run 'bot'; did you mean 'both'"):
        parse_params(raw).run("bot")


# -- the file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds: [0\nruns: {", "line 2"),
        ("seeds: [0]\nseeds: [1]", "line 2: seeds is given twice (first on line 1)"),
        ("training:\n  lr: 1\n  lr: 2", "line 3: lr is given twice (first on line 2)"),
        ("", "must hold keys and values"),
        ("- a", "must hold keys and values"),
        ("a: !!python/object:os.system {}", "line 1"),
        ("a:\n\tb: 1", "line 2"),
        ("? [a]\n: 1", "line 1: a key must be a plain name"),
    ],
)
def test_a_file_that_is_not_params(tmp_path, text, says):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ParamsError, match="no such file; copy one of profiles"):
        load_params(tmp_path / "params.yaml")


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="cannot be read as text"):
        load_params(path)


# -- python -m stages.check --------------------------------------------------------------------------------


def check(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.check", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_check_sums_up_valid_params(tmp_path, raw):
    path = tmp_path / "mine.yaml"
    raw |= {"experiment": "mine", "runs_from_single_task": {}, "tuned": {}}
    raw["data"] |= {"archive": None, "folder": "data/own"}
    raw["evaluation"] = {
        "batch_size": 4, "panels": 1, "select_on": None, "edge_nms": False, "split": "val", "allow_different": []
    }  # fmt: skip
    path.write_text(yaml.safe_dump(raw))
    done = check("--params", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 runs x 2 seeds (0, 1) = 4 trainings" in done.stdout
    assert "warning: runs.both: no single-task run of semseg, so no multi-task performance" in done.stdout
    assert "warning: runs.both: compare will refuse every depth baseline: depth: " in done.stdout


def test_check_tells_where_a_run_and_its_baseline_use_other_numbers_of_threads(raw):
    run = {"architecture": "multi_task", "tasks": ["semseg", "depth"], "training": {"cpu_threads": None}}
    raw["runs"] = {"depth": {"architecture": "single_task", "tasks": ["depth"]}, "both": run}
    says = "runs.both: cpu_threads null against 1 in depth: on a CPU sums round otherwise, and scores differ as by seed"
    assert says in list(warnings(parse_params(raw)))
    run["training"] = {}
    assert not any("cpu_threads" in warning for warning in warnings(parse_params(raw)))


def test_check_refuses_with_one_message(tmp_path, raw):
    path = tmp_path / "mine.yaml"
    put(raw, "training.lrr", 1)
    path.write_text(yaml.safe_dump(raw))
    done = check("--params", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{path}: training.lrr: unknown key; did you mean training.lr?\n"


@pytest.mark.slow
def test_check_refuses_a_test_split_that_dataset_yaml_does_not_list(tmp_path, raw):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["data"] |= {"dataset": "folder", "folder": str(tmp_path / "own")}
    put(raw, "evaluation.split", "test")
    (tmp_path / "own").mkdir()
    described = {"name": "mine", "tasks": ["semseg", "normals"], "classes": {"semseg": ["a", "b"]}}
    (tmp_path / "own/dataset.yaml").write_text(yaml.safe_dump(described))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    done = check("--params", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"evaluation.split is test, but {tmp_path}/own/dataset.yaml lists no such split, only train, val: "
        "name the file of its ids there, as splits.test, or set evaluation.split to val\n"
    )
    described["splits"] = {"test": "gt_sets/test.txt"}
    (tmp_path / "own/dataset.yaml").write_text(yaml.safe_dump(described))
    assert check("--params", str(path)).returncode == 0


@pytest.mark.parametrize("dataset", [name for name in names.DATASETS if name != "folder"])
def test_a_dataset_without_a_test_split_is_not_scored_on_one(raw, dataset):
    put(raw, "data", {"dataset": dataset, "tasks": list(names.DATASET_TASKS[dataset])})
    put(raw, "evaluation.split", "test")
    says = f"evaluation.split: got 'test'; {dataset} has no test split, only train and val: set it to val"
    assert says in message(raw)
    put(raw, "evaluation.split", "train")
    assert "evaluation.split: got 'train'; must be 'val' or 'test'" in message(raw)


def test_check_names_the_keys_without_which_dvc_does_not_start(tmp_path):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    del raw["data"]["folder"], raw["evaluation"]["edge_nms"], raw["runs_from_single_task"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    done = check("--params", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    named = "data.folder, evaluation.edge_nms, runs_from_single_task"
    assert done.stderr == f"{path}: dvc.yaml names {named}, which it lacks; see profiles/ for their values\n"
