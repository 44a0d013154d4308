"""Going on after a kill: from any step and any validation, exactly as if nothing had happened."""

import copy
import io
import math
import os
import resource
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline.compute import distributed
from pipeline.compute.device import choose_device
from pipeline.core import paths, run_folders
from pipeline.core.errors import TrainingError
from pipeline.core.run_folders import delete, inactive
from pipeline.data.store import DatasetInfo
from pipeline.params.load import parse_params
from pipeline.tracking.metric_queue import Point
from pipeline.train import resume
from pipeline.train.epoch_selection import Selection
from pipeline.train.outputs import write_outs
from pipeline.train.resume import Checkpoints, attempt
from pipeline.train.training_inputs import training_inputs, training_key
from tests.support.tiny_training import Tiny, make_store, params, run_training

EVERY_STEP = 1e-9  # minutes
AUGMENTATION = {"flip": 0.5, "scale": [0.8, 1.2], "scale_mode": "range", "rotation": 10, "crop": "random"}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Training:
    """A training with everything random in it, that can be killed at a step or a validation, and begun again."""

    def __init__(self, folder, samples=10, **recipe):
        self.store = make_store(folder, samples)
        self.run = params(validate_every=1, augmentation=AUGMENTATION, **recipe)

    def go(self, key="k", minutes=EVERY_STEP, kill_at_step=None, kill_at_validation=None):
        """Final weights, epochs without their durations, all that was logged, and the number of steps done here."""
        torch.manual_seed(0)
        network, selection, done = Tiny(dropout=0.3), Selection(("depth",)), {"steps": 0, "validations": 0}

        def count(what, kill_at):
            done[what] += 1
            if done[what] == kill_at:
                raise Killed

        def validate():
            count("validations", kill_at_validation)
            return {"depth": {"rmse": float(network.heads["depth"].weight.detach().abs().sum())}}

        # In the middle of a step: of one that a CUDA graph plays again, the network itself hears nothing.
        def step(optimizer, *_):
            if any(parameter is network.body.weight for parameter in optimizer.param_groups[0]["params"]):
                count("steps", kill_at_step)  # and not those of an optimiser that a balancing method has for itself

        hook = register_optimizer_step_pre_hook(step)
        with attempt(key) as turn:
            points = turn.points

            def log(values, step):
                points.extend(Point(name, value, 0, step) for name, value in values.items())

            checkpoints = Checkpoints(turn, minutes, lambda: (points, 0.0))
            try:
                _, history, _ = run_training(
                    self.store, self.run, 0, network, validate, log, selection=selection, checkpoints=checkpoints
                )
            finally:
                hook.remove()
        return network.state_dict(), [replace(record, seconds=0) for record in history], points, done["steps"]


@contextmanager
def full_disk():
    """No file may grow over 4 kB: a write then fails just as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def same(first, second):
    weights = all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    return weights and first[1:3] == second[1:3]


@pytest.fixture
def training(in_tmp):
    return Training(in_tmp / "data", epochs=3)  # 3 epochs of 2 steps


@pytest.mark.parametrize("memory", [1 << 30, 1000], ids=["split kept in memory", "split read from disk"])
@pytest.mark.parametrize("recipe", [{"optimizer": "adam"}, {"optimizer": "sgd", "schedule": "constant"}])
@pytest.mark.slow
def test_killed_at_every_step_and_every_validation(in_tmp, monkeypatch, memory, recipe):
    monkeypatch.setattr("pipeline.loading.in_memory.free_memory", lambda device: memory)
    training = Training(in_tmp / "data", samples=9, batch_size=3, epochs=2, **recipe)  # 2 epochs of 3 steps
    whole = training.go("undisturbed")
    assert whole[3] == 6
    for step in range(1, 7):
        with pytest.raises(Killed):
            training.go(f"step {step}", kill_at_step=step)
        again = training.go(f"step {step}")
        assert again[3] == 6 - (step - 1), "it goes on after the last step that was done"
        assert same(again, whole)
    for validation in (1, 2):
        with pytest.raises(Killed):
            training.go(f"validation {validation}", kill_at_validation=validation)
        again = training.go(f"validation {validation}")
        assert again[3] == 6 - 3 * validation, "no step is done twice"
        assert same(again, whole)


def test_without_minutes_it_goes_on_from_the_last_epoch(training):
    with pytest.raises(Killed):
        training.go(minutes=1e9, kill_at_step=6)  # the second step of the third epoch
    again = training.go(minutes=1e9)
    assert again[3] == 2 and same(again, training.go("undisturbed"))


def test_a_training_that_is_done_is_not_done_again(training):
    whole, again = training.go(), training.go()
    assert again[3] == 0 and same(again, whole)


def flipped(place: float):
    """One bit flipped, at that part of the file: the rest of it is as it was written."""

    def flip(content: bytes) -> bytes:
        at = min(int(place * len(content)), len(content) - 1)
        return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

    return flip


def in_a_weight(content: bytes) -> bytes:
    """One bit flipped in a number of the network, which torch.load gives back without a word."""
    state = torch.load(io.BytesIO(content), weights_only=True)["state"]
    weights = state["network"]["body.bias"].numpy().tobytes()
    at = content.index(weights) + 2
    changed = content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :]
    read = torch.load(io.BytesIO(changed), weights_only=True)["state"]
    assert not torch.equal(read["network"]["body.bias"], state["network"]["body.bias"])
    return changed


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "cut by a byte": lambda content: content[:-1],
    "longer": lambda content: content + b"0",
    "a bit in a weight": in_a_weight,
    **{f"a bit at {place}": flipped(place) for place in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1)},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(training, capsys, damage):
    whole = training.go("undisturbed")
    with pytest.raises(Killed):
        training.go(kill_at_step=4)
    path = paths.training_folder("k") / "checkpoint.pt"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    again = training.go()
    assert again[3] == 4 and same(again, whole), "one step more is done again than without the damage"
    message = capsys.readouterr().err
    assert message.count("the checkpoint is damaged") == 1 and "the one before it is read" in message
    assert path.with_suffix(".damaged").read_bytes() == damaged


def test_where_both_checkpoints_are_damaged_training_starts_from_nothing(training, capsys):
    whole = training.go("undisturbed")
    with pytest.raises(Killed):
        training.go(kill_at_step=4)
    for name in ("checkpoint.pt", "before.pt"):
        path = paths.training_folder("k") / name
        path.write_bytes(flipped(0.5)(path.read_bytes()))
    again = training.go()
    assert again[3] == 6 and same(again, whole)
    message = capsys.readouterr().err
    assert message.count("the checkpoint is damaged") == 2 and "training starts from nothing" in message


@pytest.mark.parametrize("damage", [lambda text: text[:-5], lambda text: text.replace("2", "3"), lambda text: "{}"])
def test_a_damaged_record_is_reported_and_it_stays_the_same_training(training, capsys, damage):
    """The checkpoint says which: else MLflow would have a second run of it."""
    whole = training.go("undisturbed")
    with pytest.raises(Killed):
        training.go(kill_at_step=4)
    record = paths.training_folder("k") / "attempts.json"
    before, content = record.read_text(), paths.read_json(record)
    record.write_text(damage(before))
    assert record.read_text() != before
    again = training.go()
    assert again[3] == 3 and same(again, whole)
    assert "attempts.json is damaged: the training continues, in the same MLflow run" in capsys.readouterr().err
    now = paths.read_json(record)
    assert (now["training_id"], now["number"]) == (content["training_id"], content["number"] + 1)


def test_a_kill_between_two_names_leaves_the_checkpoint_before(training):
    whole = training.go("undisturbed")
    with pytest.raises(Killed):
        training.go(kill_at_step=4)
    (paths.training_folder("k") / "checkpoint.pt").unlink()
    again = training.go()
    assert again[3] == 4 and same(again, whole)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("you tried: can't allocate memory")])
def test_a_checkpoint_that_can_not_be_read_now_is_kept(training, monkeypatch, error):
    def fail(*_, **__):
        raise error

    with pytest.raises(Killed):
        training.go(kill_at_step=4)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(TrainingError, match=r"checkpoint .*checkpoint\.pt can't be read: .*delete it"):
            training.go()
    again = training.go()
    assert again[3] == 3 and same(again, training.go("undisturbed"))


def test_processes_that_found_other_checkpoints_do_not_go_on(training, monkeypatch):
    with pytest.raises(Killed):
        training.go(kill_at_step=4)
    monkeypatch.setattr(distributed, "all_gather", lambda own: [own, 0] if isinstance(own, int) else [own])
    with pytest.raises(TrainingError, match=r"found checkpoints of steps 3, 0: .* not the same folder"):
        training.go()


def test_a_full_disk_is_told_once_and_leaves_the_last_checkpoint(training, capsys):
    with pytest.raises(Killed):
        training.go(kill_at_step=3)
    path = paths.training_folder("k") / "checkpoint.pt"
    kept = path.read_bytes()
    with full_disk():
        whole = training.go()
    told = capsys.readouterr().err
    assert told.count("no checkpoint can be written") == 1 and "File too large" in told and "from step 2;" in told
    assert path.read_bytes() == kept and [each.name for each in path.parent.glob(".*")] == []
    again = training.go()
    assert again[3] == 4 and same(again, whole) and same(again, training.go("undisturbed"))


def test_a_result_that_does_not_fit_on_the_disk_is_told(in_tmp):
    network = torch.nn.Linear(100, 100)
    told = pytest.raises(TrainingError, match=r"result of pair-0 can't be written: .*too large.*Free some space")
    with full_disk(), told:
        write_outs(network, [], SimpleNamespace(run=params(), seed=0))
    assert list((in_tmp / "models" / "pair-0").iterdir()) == []


def test_two_processes_do_not_train_the_same(training, monkeypatch):
    monkeypatch.setattr(resume, "_LOCK_SECONDS", 0)
    monkeypatch.setattr(run_folders, "_LOOK_SECONDS", 0)
    with attempt("k"):
        with pytest.raises(TrainingError, match=r"another process trains exactly this.*wait for it, or end it"):
            training.go()
        delete("k")
        assert paths.training_folder("k").exists(), "what is in use is not removed"
        assert inactive() == {}
    assert training.go()[3] == 6 and len(inactive()) == 1
    delete("k")
    assert not paths.training_folder("k").exists()


def test_attempts_of_one_training_share_its_name_and_are_counted(in_tmp):
    def begin(key):
        with attempt(key) as turn:
            turn.save({}, [Point("loss", math.nan, 1, 2)], 3.5)
            return turn

    first, second, other = begin("k"), begin("k"), begin("l")
    assert (first.number, second.number, other.number) == (1, 2, 1)
    assert first.training_id == second.training_id != other.training_id
    assert (first.points, first.seconds) == ([], 0) and second.seconds == 3.5
    assert [str(point) for point in second.points] == [str(Point("loss", math.nan, 1, 2))]


@pytest.mark.parametrize("clock", ["a long holiday", "a clock set wrong"])
def test_what_was_begun_is_kept_whatever_its_age_and_the_clock(in_tmp, monkeypatch, capsys, clock):
    for key in ("old", "recent"):
        with attempt(key):
            (paths.training_folder(key) / "checkpoint.pt").write_bytes(bytes(3_000_000))
    with attempt("own"):
        assert "no training" not in capsys.readouterr().out
    if clock == "a long holiday":
        long_ago = time.time() - 400 * 86400
        os.utime(paths.training_folder("old"), (long_ago, long_ago))
    else:
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 400 * 86400)
    with attempt("own"):
        pass
    assert {path.name for path in paths.training_folder("").iterdir()} == {"old", "recent", "own"}
    assert (paths.training_folder("old") / "checkpoint.pt").stat().st_size == 3_000_000
    told = capsys.readouterr().out
    many, size = ("1 other training that", 3) if clock == "a long holiday" else ("2 other trainings that", 6)
    assert f"keeps {many} nothing has touched for 14 days ({size} MB)" in told and "stages.doctor" in told


@pytest.mark.slow
def test_a_checkpoint_is_used_for_the_same_inputs_alone(root, tmp_path, monkeypatch):
    """The key changes with every param, seed, datum, device, precision, file of weights and line of code."""
    for name in ("pipeline", "dvc.yaml", "params.yaml"):
        (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"1")
    raw = yaml.safe_load((tmp_path / "params.yaml").read_text())
    raw["training"] |= {"pretrained": "weights.pth", "validate_every": 1}
    info = DatasetInfo("rooms", ("semseg", "normals"), {}, 0.011, {}, "digest")
    cpu = choose_device("float32", True)

    def key(seed=0, info=info, device=cpu, **changed):
        tree = copy.deepcopy(raw) | changed.pop("top", {})
        tree["training"] |= changed
        return training_key(training_inputs(parse_params(tree), "multi_task", seed, info, device), info, "multi_task")

    def edited(name):
        path = tmp_path / name
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        try:
            return key()
        finally:
            path.write_bytes(before)

    assert key() == key() == key(top={"checkpoint_minutes": 1, "experiment": "other", "seeds": [0]})
    different = [
        key(),
        key(epochs=7),
        key(augmentation={"flip": 0.25}),
        key(seed=1),
        key(info=replace(info, digest="other")),
        key(device=replace(cpu, dtype=torch.bfloat16)),
        key(device=replace(cpu, torch_device=torch.device("cuda"))),
        key(top={"evaluation": {"select_on": "train_holdout"}}),
        edited("weights.pth"),
        edited("pipeline/train/state.py"),
        edited("pipeline/metrics/segmentation.py"),
    ]
    assert len(set(different)) == len(different)
    assert edited("pipeline/report/markdown.py") == edited("pipeline/tracking/mlflow_run.py") == key()
