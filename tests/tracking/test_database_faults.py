"""MLflow's database locked, full, not to be written, damaged: one message that loses nothing, from every command."""

import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
import sqlalchemy

from pipeline.core import paths
from pipeline.core.errors import TrackingError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import write_split
from pipeline.tracking import metric_queue, mlflow_run, queries, run_log
from stages import check, compare, doctor, evaluate, report, trace, train
from stages._entry import run_stage
from tests.support.traced import make_result, working_in

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
POINTS = 3000
BUSY_MILLISECONDS = 200  # how long SQLite waits for a lock: 5 s when it is opened, 20 s in MLflow's sessions


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with data, a result, and a store in which a run has many points."""
    folder = tmp_path_factory.mktemp("made")
    with working_in(folder):
        make_result()
        for split, count in (("train", 8), ("val", 4)):
            write_split(paths.PREPARED / split, map(sample, range(count)), ["semseg", "depth"])
        with mlflow_run.training_run(mlflow_run.connect("traced"), "long", "long", {}) as log:
            for step in range(POINTS):
                log.metrics({"loss/depth": 1 / (step + 1)}, step)
    return folder


def sample(i):
    everywhere = np.ones((32, 64), bool)
    labels = {
        "semseg": Label(everywhere.astype(np.uint8), everywhere),
        "depth": Label(np.float32(everywhere), everywhere),
    }
    return Sample(str(i), np.full((32, 64, 3), i, np.uint8), labels)


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy, in a folder that MLflow has no open connection to."""
    root = tmp_path / "project"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(run_log, "_LAST_SECONDS", 1.0)
    with pragma(f"busy_timeout = {BUSY_MILLISECONDS}"), soon_tired_of_locks():
        yield root


@contextmanager
def pragma(text):
    """Every connection that SQLAlchemy opens meanwhile begins with this."""

    def begin(connection, _):
        connection.execute(f"PRAGMA {text}")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", begin)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", begin)


@contextmanager
def soon_tired_of_locks():
    """MLflow asks SQLite at the start of every session to wait for 20 s."""

    def shorten(connection, cursor, statement, parameters, *_):
        return statement.replace("busy_timeout = 20000", f"busy_timeout = {BUSY_MILLISECONDS}"), parameters

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", shorten, retval=True)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", shorten)


@contextmanager
def locked():
    with closing(sqlite3.connect("mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def rewritten(change):
    with open("mlflow.db", "r+b") as file:
        change(file, os.fstat(file.fileno()).st_size)
    yield


def overwrite(file, size):
    file.seek(size // 4)
    file.write(b"\xa5" * (size // 2))


@contextmanager
def folder_instead():
    Path("mlflow.db").rename("moved.db")
    Path("mlflow.db").mkdir()
    yield


@contextmanager
def full():
    """There is room for nothing more in the file than is in it: VACUUM leaves no free page."""
    with closing(sqlite3.connect("mlflow.db", isolation_level=None)) as connection:
        connection.execute("VACUUM")
    with pragma("max_page_count = 1"):  # SQLite takes the present size for less than that
        yield


LOSSLESS = r"Keep the database with what lies beside it: `cd .* && mkdir damaged && mv mlflow\.db\* damaged/`"
READING = {
    "locked": (locked, r"mlflow\.db is locked by .*leave mlflow\.db-journal and mlflow\.db-wal where they are"),
    "overwritten": (lambda: rewritten(overwrite), rf"mlflow\.db is damaged \(.*malformed\).*{LOSSLESS}"),
    "cut": (lambda: rewritten(lambda file, size: file.truncate(size // 2)), rf"damaged \(.*malformed\).*{LOSSLESS}"),
    "another file": (lambda: rewritten(lambda file, size: file.write(b"x" * 99)), rf"damaged \(.*not a da.*{LOSSLESS}"),
    "folder": (folder_instead, r"mlflow\.db can't be opened and written \(.*\): it is a folder"),
}
WRITING = {
    "full": (full, r"mlflow\.db can't be written \(.*full\): make room on its disk"),
    "read-only": (lambda: pragma("query_only = 1"), r"mlflow\.db can't be opened and written \(attempt to write a rea"),
}


def stage(module, *arguments):
    """Exit code of a command."""
    options = {"parser": module.parser()} if hasattr(module, "parser") else {}
    with pytest.raises(SystemExit) as exited:
        run_stage(module.main, argv=arguments, run_and_seed=module in (train, evaluate), **options)
    return exited.value.code


COMMANDS = {
    "train": (train, "--run", "depth", "--seed", "0"),
    "evaluate": (evaluate, "--run", "pair", "--seed", "0"),
    "trace": (trace, "models/pair-0"),
    "doctor": (doctor,),
}


@pytest.mark.parametrize(
    ("fault", "command"), [(fault, command) for fault in (*READING, *WRITING) for command in COMMANDS]
)
def test_a_command_says_what_to_do(project, capfd, fault, command):
    make, message = (READING | WRITING)[fault]
    before = {path.name for path in Path().iterdir()}
    with make():
        code = stage(*COMMANDS[command])
    told = capfd.readouterr()
    assert "Traceback" not in told.err + told.out and "delete" not in told.err
    if fault in WRITING and command != "train":
        assert "mlflow.db" not in told.err, "it only reads; what evaluate writes in the end is tested below"
        return
    assert code == 2
    assert re.search(message, told.err), told.err
    assert before <= {path.name for path in Path().iterdir()}, "nothing is taken away"


@pytest.mark.parametrize("module", [check, compare, report])
def test_other_commands_do_not_open_it(project, capfd, module):
    """The results lack what they need, which they say as if there were no database."""
    shutil.copy(ROOT / "params.yaml", "params.yaml")

    def outcome():
        return stage(module), capfd.readouterr()

    database = Path("mlflow.db").rename("elsewhere.db")
    expected = outcome()
    database.rename("mlflow.db")
    with rewritten(overwrite):
        assert outcome() == expected


@pytest.mark.parametrize("fault", WRITING)
def test_scores_that_can_not_be_written(project, fault):
    make, message = WRITING[fault]
    with make(), pytest.raises(TrackingError, match=rf"{message}.*The files that it should copy are written"):  # noqa: SIM117
        with mlflow_run.continued_run(mlflow_run.connect("traced"), "depth", 0, "0" * 64) as log:
            for step in range(POINTS):
                log.metrics({"depth/rmse": 1 / (step + 1)}, step)


@pytest.mark.parametrize("fault", [*READING, *WRITING])
def test_a_training_goes_on_and_keeps_what_it_measures(project, capfd, monkeypatch, fault):
    """Of a store that can't be written in its middle, the next attempt gets all."""
    monkeypatch.setattr(metric_queue, "_SEND_SECONDS", 0.05)
    make, message = (READING | WRITING)[fault]
    if fault in WRITING:  # of connections that are open, they change nothing
        expected = pytest.raises(TrackingError, match=message)
        with make(), expected, mlflow_run.training_run(mlflow_run.connect("traced"), "depth-0", "a", {}) as log:
            log.metrics({f"loss/{i}": 1.0 for i in range(POINTS)}, 1)
        return
    with ExitStack() as faults:
        expected = pytest.raises(TrackingError, match=message)
        with expected as ended, mlflow_run.training_run(mlflow_run.connect("traced"), "depth-0", "a", {}) as log:
            log.metrics({"loss/depth": 1.0}, 0)
            faults.enter_context(make())
            for step in range(1, 200):
                log.metrics({"loss/depth": 1 / (step + 1)}, step)
    assert "Nothing that was computed is lost" in str(ended.value)
    assert "Traceback" not in capfd.readouterr().err
    assert [point.step for point in log.points] == list(range(200)), "the next checkpoint keeps all"


# What is tested are the commands that the message prints, and one of them is sqlite3's own, which Python has not.
@pytest.mark.skipif(not shutil.which("sqlite3"), reason="the sqlite3 command is not installed")
def test_the_remedy_for_a_damaged_database_keeps_it_and_brings_back_what_can_be_read(project):
    with closing(sqlite3.connect("mlflow.db")) as whole:
        runs = whole.execute("SELECT count(*) FROM runs").fetchone()
    size = Path("mlflow.db").stat().st_size
    with rewritten(lambda file, size: file.truncate(size * 9 // 10)), pytest.raises(TrackingError) as told:
        queries.running()
    keep, recover = re.findall("`([^`]+)`", str(told.value))
    subprocess.run(["bash", "-c", f"{keep} && {recover}"], check=True, capture_output=True)
    assert Path("damaged/mlflow.db").stat().st_size == size * 9 // 10
    shutil.copy("mlflow.db", "recovered.db")  # MLflow has the other open
    client = mlflow.MlflowClient(f"sqlite:///{Path('recovered.db').resolve()}")
    experiment = client.get_experiment_by_name("traced")
    found = client.search_runs([experiment.experiment_id])
    assert (len(found),) == runs
    history = next(
        client.get_metric_history(run.info.run_id, "loss/depth") for run in found if run.info.run_name == "long"
    )
    assert POINTS // 4 < len(history) <= POINTS
