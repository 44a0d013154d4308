"""What kills, edits and moves leave behind is found, fixed when asked to, and nothing else is touched."""

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
import yaml

from pipeline.compute import distributed
from pipeline.compute.device import Device, choose_device
from pipeline.core import paths
from pipeline.core.provenance import this_process
from pipeline.data.store import read_info
from pipeline.evaluation.confusion import confusion_file
from pipeline.evaluation.predictions import predictions_file
from pipeline.params.load import load_params
from pipeline.tools.doctor import examine
from pipeline.tracking import mlflow_run, queries
from pipeline.train import resume
from pipeline.train.training_inputs import training_inputs, training_key
from stages import doctor as stage
from stages._entry import run_stage
from tests.support.traced import make_result, working_in


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a result and a store; to make one takes seconds, so tests work in copies."""
    folder = tmp_path_factory.mktemp("made")
    with working_in(folder):
        make_result()
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A moved project, whose database has been fixed by hand: one in which nothing is wrong."""
    root = tmp_path / "project"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it for processes that it starts
    rewrite_locations(made, root)
    return root


def rewrite_locations(old: Path, new: Path):
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(old), str(new)))


def locations() -> list[str]:
    with closing(sqlite3.connect("mlflow.db")) as database:
        found = database.execute("SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs")
        return [location for (location,) in found]


def found() -> list[str]:
    return [finding.what for finding in examine(load_params())]


def doctor(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stage.main, parser=stage.parser(), argv=arguments)
    return ended.value.code, capsys.readouterr().out


@pytest.mark.slow
def test_a_sound_project_and_one_that_never_ran(project, capsys):
    assert doctor(capsys) == doctor(capsys, "--fix") == (0, "nothing left to fix\n")
    for name in ("mlflow.db", "mlruns", ".runs", "models", "reports"):
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    assert doctor(capsys) == (0, "nothing left to fix\n")
    assert not Path("mlflow.db").exists(), "looking makes no store"


# ---- runs ----------------------------------------------------------------------------------------------------


def ended_process() -> dict[str, str]:
    process = subprocess.Popen(["sleep", "60"])
    tags = {"pid": str(process.pid), "pid.started": str(psutil.Process(process.pid).create_time())}
    process.kill()
    process.wait()
    return tags


@pytest.mark.slow
def test_runs_are_ended_whose_process_is_gone_and_no_others(project, capsys):
    experiment = mlflow_run.connect("traced")
    with resume.attempt("begun by an older version") as attempt:
        pass
    gone, here = ended_process(), {"host": platform.node()}
    tags = {
        "killed": here | gone,
        "its number is another's now": here | {"pid": str(os.getpid()), "pid.started": "1.0"},
        "dormant": {"training_id": attempt.training_id},
        "of another machine": {"host": "elsewhere", "training_id": attempt.training_id} | gone,
        "at work": this_process(),
        "of another program": {},
    }
    client = mlflow.MlflowClient()
    runs = {name: client.create_run(experiment, run_name=name, tags=own).info.run_id for name, own in tags.items()}
    code, printed = doctor(capsys)
    assert code == 1 and printed.count("its process is gone: mark it KILLED") == 3
    doctor(capsys, "--fix")
    statuses = {name: client.get_run(run).info.status for name, run in runs.items()}
    assert [name for name, status in statuses.items() if status == "KILLED"] == list(tags)[:3]
    assert set(statuses.values()) == {"KILLED", "RUNNING"}
    assert doctor(capsys) == (0, "nothing left to fix\n")


@pytest.mark.slow
def test_whoever_takes_a_run_up_again_signs_it(project):
    experiment = mlflow_run.connect("traced")
    old = {"host": platform.node()} | ended_process()
    own = {"training_id": "t", "run": "new", "seed": "0", "weights_sha256": "f" * 64}
    run = mlflow.MlflowClient().create_run(experiment, tags=own | old).info.run_id
    scored = mlflow_run.continued_run(experiment, "new", 0, "f" * 64)
    for again in (mlflow_run.training_run(experiment, "new-0", "t", {}), scored):
        mlflow.MlflowClient().log_batch(run, tags=[mlflow.entities.RunTag(*tag) for tag in old.items()])
        with again as log:
            assert log.id == run and found() == []


# ---- results -------------------------------------------------------------------------------------------------


def results(name: str) -> list[Path]:
    """All that stages leave of a run, made; those in a folder as the folder."""
    run = name.rpartition("-")[0], int(name.rpartition("-")[2])
    files = [paths.digest_file(*run), paths.start_file(*run), paths.metrics_file(*run), paths.history_file(*run)]
    files.append(paths.statistics_file(*run))
    inside = [paths.run_file(*run), paths.weights_file(*run), predictions_file(*run), confusion_file(*run)]
    for path in (*files, *inside, paths.panel_dir(*run) / f"{name}.png"):
        paths.write_json(path, {"sha256": "0"})
    return [*files, paths.model_dir(*run), paths.panel_dir(*run)]


def record_outs(outs: list[Path]):
    stages = {str(i): {"outs": [{"path": str(path)}]} for i, path in enumerate(outs)}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.mark.parametrize("name", ["old-0", "pair-1", "a-b-12"])
@pytest.mark.slow
def test_results_of_removed_runs_and_seeds(project, capsys, name):
    kept = set(Path().rglob("*"))
    record_outs(results(name))
    code, printed = doctor(capsys)
    assert code == 1 and printed.count("no longer in params.yaml: remove it (") == 7
    assert printed.count("DVC's cache has it") == 6 and printed.count("git has it, if committed") == 1
    code, printed = doctor(capsys, "--fix")
    assert code == 0 and printed.count("fixed: ") == 7
    left = {path for path in set(Path().rglob("*")) - kept if path.is_file()}
    assert kept <= set(Path().rglob("*")) and left == {Path("dvc.lock")}


@pytest.mark.slow
def test_what_a_person_made_and_what_dvc_may_not_have_stays(project, capsys):
    named = results("old-0")
    unrecorded = results("new-0")
    record_outs(named)
    mine = [Path("models/mine-3/net.pt"), Path("models/notes-1"), Path("reports/metrics/notes.json")]
    mine += [Path("models/old-0/notes.txt"), Path("reports/history/.hidden-0.csv")]
    for path in mine:
        paths.write_json(path, {})
    code, printed = doctor(capsys, "--fix")
    assert code == 1 and printed.count("fixed") == 6
    assert "models/old-0 is of a run or seed" in printed and "keep what no stage wrote (notes.txt) elsewhere" in printed
    assert printed.count("dvc.lock does not name it") == 7 and "8 findings left" in printed
    assert all(path.exists() for path in (*mine, *unrecorded, paths.weights_file("old", 0)))


# ---- resumable states ----------------------------------------------------------------------------------------


def begin(key: str) -> Path:
    with resume.attempt(key) as attempt:
        attempt.save({}, [], 0.0)
    return attempt.folder


CPU = choose_device("float32", True, cpu_threads=1)


def key_of(name: str, processes: int = 1, device: Device = CPU) -> str:
    params, info = load_params(), read_info()
    return training_key(training_inputs(params, name, 0, info, device, processes), info, name)


@pytest.mark.slow
def test_checkpoints_that_no_training_takes_up(project, capsys):
    wanted, orphan, scored = begin(key_of("depth")), begin("orphan"), begin(key_of("pair"))
    made = {"model": "pair-0", "weights_sha256": paths.read_json(paths.run_file("pair", 0))["weights_sha256"]}
    paths.write_json(scored / "result.json", made)
    with resume.attempt("at work"):
        code, printed = doctor(capsys)
        assert code == 1 and printed.count("found: ") == 2
        assert f"{orphan} is of a training that the current params, code and data do not ask for" in printed
        assert f"{scored} is of pair-0, which is trained and scored" in printed
        assert doctor(capsys, "--fix")[0] == 0
        assert wanted.exists() and paths.training_folder("at work").exists()
        assert not orphan.exists() and not scored.exists()
    paths.metrics_file("pair", 0).unlink()
    paths.training_folder(key_of("pair")).mkdir()
    assert not any("pair-0" in what for what in found()), "until it is scored, DVC may not have recorded it"


@pytest.mark.slow
def test_a_checkpoint_of_several_processes_is_taken_up_by_as_many(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: 4)
        begin(key_of("depth", 4))
    assert found() == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.slow
def test_a_checkpoint_of_another_machines_device_is_kept(project, dtype):
    begin(key_of("depth", device=Device(torch.device("cuda"), dtype, True)))
    assert found() == []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.slow
def test_with_null_a_checkpoint_of_any_number_of_threads_is_kept(project, monkeypatch, threads):
    raw = yaml.safe_load(paths.PARAMS.read_text())
    raw["training"]["cpu_threads"] = None
    paths.PARAMS.write_text(yaml.safe_dump(raw))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads)
        begin(key_of("depth", device=Device(torch.device("cpu"), torch.float32, True, cpu_threads=threads)))
    assert found() == []


@pytest.mark.slow
def test_without_data_nobody_knows_what_is_needed(project, capsys):
    begin("orphan")
    (paths.PREPARED / "dataset.json").unlink()
    code, printed = doctor(capsys, "--fix")
    assert code == 1 and "is unknown: data/prepared/dataset.json is missing" in printed
    assert paths.training_folder("orphan").exists()


# ---- the moved database --------------------------------------------------------------------------------------


@pytest.fixture
def moved(project, tmp_path):
    """A project whose database names the folder where it was before."""
    old = tmp_path / "where it was #1"
    rewrite_locations(project, Path(old.as_uri().removeprefix("file://")))
    return old


@pytest.mark.slow
def test_a_moved_database_is_mended_after_a_copy(project, moved, capsys):
    before = Path("mlflow.db").read_bytes()
    code, printed = doctor(capsys)
    assert code == 1 and f"looks for the artifacts of 1 runs in {moved / 'mlruns'}" in printed
    assert Path("mlflow.db").read_bytes() == before and not list(Path().glob("*.bak*"))
    Path("mlflow.db.bak").write_text("a person's own")
    assert doctor(capsys, "--fix")[0] == 0
    assert all(str(project / "mlruns") in location for location in locations() if location.startswith("file:"))
    assert not any("where" in location for location in locations() if location.startswith("file:"))
    assert Path("mlflow.db.bak").read_text() == "a person's own" and Path("mlflow.db.bak1").exists()
    run = queries.find_result("pair", 0, paths.read_json(paths.run_file("pair", 0))["weights_sha256"]).id
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    assert [item.path for item in client.list_artifacts(run)] == ["execution.json", "run.json"]
    assert doctor(capsys) == (0, "nothing left to fix\n")


@pytest.mark.slow
def test_a_database_in_use_stays_as_it_is(project, moved, capsys):
    hold = "import sys; opened = open('mlflow.db'); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        user.stdout.readline()
        code, printed = doctor(capsys, "--fix")
        user.stdin.close()
    assert (
        code == 1 and f"(process {user.pid})" in printed and not any(str(project) in each for each in locations()[1:])
    )
    assert doctor(capsys, "--fix")[0] == 0


@pytest.mark.slow
def test_artifacts_that_are_at_the_old_place_alone(project, moved, capsys):
    make_result("depth")  # goes to the old place
    code, printed = doctor(capsys, "--fix")
    assert code == 1 and f"copy those of 1 runs, which are there alone, to {project / 'mlruns'}" in printed
    shutil.copytree(moved / "mlruns", "mlruns", dirs_exist_ok=True)
    assert doctor(capsys, "--fix")[0] == 0


@pytest.mark.slow
def test_artifacts_kept_elsewhere_on_purpose_are_no_finding(project, moved):
    shutil.rmtree("mlruns")
    assert found() == []
