"""The short form of `make test-faults`: some cases of each kind, and that the harness sees what it is there to see."""

import json
import random
import shutil
import sqlite3

import pytest

from tests.faults import corruption, kills, system
from tests.faults.bench import Bench, copy
from tests.faults.commands import Done, Launcher, compiler
from tests.faults.example import RUN
from tests.faults.outcome import differences, outcome
from tests.faults.verdict import IDENTICAL, REFUSED, TRACEBACK, not_clear

pytestmark = pytest.mark.e2e

TRAIN, EVALUATE = f"train@{RUN}", f"evaluate@{RUN}"
needs_compiler = pytest.mark.skipif(shutil.which(compiler()[0]) is None, reason="needs a C compiler, named by CC")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    with Launcher(folder) as launcher, Bench(folder, launcher) as bench:
        yield bench


@needs_compiler
@pytest.mark.parametrize(("stage", "process"), [(TRAIN, TRAIN), (TRAIN, "dvc"), (EVALUATE, EVALUATE)])
def test_after_a_kill_the_next_run_ends_as_an_undisturbed_one(bench, stage, process):
    calls = bench.undisturbed(stage, kills.repro(stage), process).calls
    (n,) = kills.places(calls, 1, random.Random(process))
    verdict = kills.case(f"kill {stage} {process} {n}").attempt(bench)
    assert verdict.kind in (IDENTICAL, REFUSED) and verdict.where, verdict


@needs_compiler
@pytest.mark.parametrize("damage", ["flip 1 weights", "flip 2 val images", "flip 4 checkpoint"])
def test_a_changed_byte_is_found_or_changes_nothing(bench, damage):
    verdict = corruption.case(f"corrupt {damage}").attempt(bench)
    assert verdict.kind == (IDENTICAL if "checkpoint" in damage else REFUSED), verdict


@needs_compiler
def test_a_full_disk_is_one_message_and_the_next_run_goes_on(bench):
    calls = bench.undisturbed(EVALUATE, kills.repro(EVALUATE), EVALUATE, system.FAULTS["full"][0]).calls
    (n,) = kills.places(calls, 1, random.Random(0))
    verdict = system.case(f"system full {EVALUATE} {EVALUATE} {n}").attempt(bench)
    assert verdict.kind in (IDENTICAL, REFUSED) and verdict.where, verdict


@needs_compiler
def test_the_harness_sees_a_loss_a_wrong_number_and_what_is_left_over(bench, tmp_path):
    folder = copy(bench.before("report"), tmp_path / "project")
    before = outcome(folder)
    assert differences(before, before) == []
    scores = folder / f"reports/metrics/{RUN}.json"
    content = json.loads(scores.read_text())
    content["tasks"]["semseg"]["mIoU"] += 1e-9
    scores.write_text(json.dumps(content))
    (folder / f"models/{RUN}/weights.safetensors").unlink()
    (folder / "reports/.left.partial").touch()
    with sqlite3.connect(folder / "mlflow.db") as store:
        store.execute(f"UPDATE runs SET status = 'RUNNING' WHERE name = '{RUN}'")
        point = store.execute("SELECT * FROM metrics WHERE key = 'loss/semseg'").fetchone()
        later = [value + 1 if i == at_time(store) else value for i, value in enumerate(point)]
        store.execute(f"INSERT INTO metrics VALUES ({', '.join('?' * len(later))})", later)
    found = differences(before, outcome(folder))
    assert len(found) == 5, found
    assert f"file reports/metrics/{RUN}.json differs" in found and "file reports/.left.partial is left over" in found
    assert any("weights" in each for each in found) and any("RUNNING" in each for each in found)
    assert any("loss/semseg" in each for each in found), "one point twice"


def at_time(store: sqlite3.Connection) -> int:
    """The column of a point's time."""
    return [column[1] for column in store.execute("PRAGMA table_info(metrics)")].index("timestamp")


@pytest.mark.parametrize(
    ("done", "told"),
    [
        (Done(("stages.check",), 2, 1.0, "params.yaml: no such file"), None),
        (Done(("dvc",), 255, 1.0, "data is damaged; run ...\nERROR: failed to reproduce", {"train": 2}), None),
        (Done(("stages.check",), None, 90.0, ""), "it had not ended after 90 s"),
        (Done(("stages.check",), 1, 1.0, f"{TRACEBACK}\n  x\nKeyError: 1"), "a traceback: KeyError: 1"),
        (Done(("dvc",), 255, 1.0, "Killed", {"train": -9}), "exit codes {'train': -9}"),
        (Done(("dvc",), 255, 1.0, "ERROR: join() argument must be str", {}), "DVC does not say what is wrong"),
        (Done(("stages.check",), 2, 1.0, ""), "nothing is printed"),
        (Done(("stages.check",), -11, 1.0, ""), "ended by signal 11"),
    ],
)  # fmt: skip
def test_what_is_no_clear_message(done, told):
    problem = not_clear(done)
    assert problem == told or (told and problem.startswith(told)), problem


def test_places_are_of_every_kind_of_file_and_come_with_the_seed():
    calls = ["write mlflow.db"] * 1000 + ["rename a/b.json", "open a/.b.json.1234abcd", "write c"]
    first = kills.places(calls, 4, random.Random(0))
    assert first == kills.places(calls, 4, random.Random(0)) and len({calls[n - 1] for n in first}) == 4
    assert len(set(kills.places(calls, 100, random.Random(1)))) == 100


@pytest.mark.parametrize("kind", corruption.KINDS)
def test_damage_changes_a_file_and_neither_its_times_nor_its_links(tmp_path, kind):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(bytes(100))
    link.hardlink_to(path)
    path.chmod(0o444)
    before = path.stat()
    corruption.damage(path, corruption.KINDS[kind], random.Random(0))
    after = path.stat()
    assert link.read_bytes() == path.read_bytes() != bytes(100)
    assert (after.st_mtime_ns, after.st_ino, after.st_mode) == (before.st_mtime_ns, before.st_ino, before.st_mode)
