"""Names that come from files, archives, MLflow and the network reach nothing outside the folder they are meant for."""

import os
from pathlib import Path

import mlflow
import pytest

from pipeline.core import forms, paths, removal, run_folders
from pipeline.core.errors import DataError
from pipeline.data.store import Store
from pipeline.download.archive import extracted
from pipeline.params import single_task_weights
from pipeline.params.load import load_params
from pipeline.tools.predict_inputs import places
from pipeline.tools.saved_model import read_saved_model
from pipeline.tools.trace import trace
from pipeline.tracking import mlflow_run
from pipeline.train.training_inputs import start_of
from tests.support.tiny_training import make_store
from tests.support.traced import make_result, working_in

LEADING_OUT = (
    "..", ".", "", "../../precious", "/precious", "a/../../../precious", "a/b", "a\0b", "a\\b",
    5, None, ["a"],
)  # fmt: skip


@pytest.fixture
def precious(in_tmp):
    """A folder outside the project, and the project, which is the working folder."""
    folder = in_tmp / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    (in_tmp / "project").mkdir()
    os.chdir(in_tmp / "project")
    return folder


# ---- removal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["{precious}", "../../../precious", ".", "..", "", "link/../../../../precious"])
def test_a_key_removes_no_folder_elsewhere(precious, key):
    paths.training_folder("begun").mkdir(parents=True)
    with pytest.raises(DataError, match="nothing was removed"):
        run_folders.delete(key.format(precious=precious))
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"], "nor is a lock made in it"
    assert paths.training_folder("begun").is_dir()


def test_what_is_removed_lies_below_the_folder_that_is_meant(precious):
    kept = Path("kept")
    (kept / "old" / "deep").mkdir(parents=True)
    (kept / "old" / "to precious").symlink_to(precious)
    (kept / "link").symlink_to(precious)
    (kept / "file").touch()
    with pytest.raises(DataError, match="is not below"):
        removal.remove(kept / "link" / "thesis.txt", kept)  # a link above it leads out
    for name in ("old", "link", "file", "never there"):
        removal.remove(kept / name, kept)
    assert list(kept.iterdir()) == []
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_a_folder_that_is_itself_a_link_is_worked_in(precious):
    (precious / "scratch").mkdir()
    Path("runs").symlink_to(precious / "scratch")  # as of people whose other disk is larger
    (precious / "scratch" / "old").mkdir()
    removal.remove(Path("runs/old"), Path("runs"))
    assert list((precious / "scratch").iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "."])
@pytest.mark.slow
def test_the_folder_itself_stays(in_tmp, name):
    (in_tmp / "kept" / "old").mkdir(parents=True)
    with pytest.raises(DataError, match="is not below"):
        removal.remove(in_tmp / "kept" / name, in_tmp / "kept")
    assert (in_tmp / "kept" / "old").is_dir()


# ---- the form of names -----------------------------------------------------------------------------------------

GOOD = {
    "input_fingerprint": "a" * 64,
    "sha256": "0" * 64,
    "history_sha256": "b" * 64,
    "run": "multi_task-2",
    "seed": 2**32 - 1,
    "file_name": "NYUD v2 ünï.tgz",
    "root": "a/b",
}


@pytest.mark.slow
def test_what_stages_write_passes():
    assert forms.check_record(Path("run.json"), GOOD | {"other": "../x"}) == GOOD | {"other": "../x"}


RIGHT = (("seed", 5), ("root", ""), ("root", "a/b"))
WRONG = [(key, value) for key in GOOD for value in LEADING_OUT if (key, value) not in RIGHT]


@pytest.mark.parametrize(("key", "value"), WRONG)
@pytest.mark.slow
def test_what_no_stage_writes_is_refused_with_file_and_remedy(key, value):
    with pytest.raises(DataError, match=f"models/x/run.json: {key} is .*expected .*get it again from where it came"):
        forms.check_record(Path("models/x/run.json"), {key: value})


@pytest.mark.slow
def test_a_long_value_is_not_printed_whole():
    with pytest.raises(DataError) as caught:
        forms.check_record("run.json", {"sha256": "x" * 10_000})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("record", [[], "text", 5, None])
@pytest.mark.slow
def test_a_record_is_a_mapping(record):
    with pytest.raises(DataError, match="holds no mapping"):
        forms.check_record("run.json", record)


# ---- where they come in ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    with working_in(folder):
        make_result()
        record = paths.read_json(paths.run_file("pair", 0))
    return folder, record


@pytest.fixture
def project(made, monkeypatch):
    """A project with a result; returns its run.json's content."""
    folder, record = made
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield record
    paths.write_json(paths.run_file("pair", 0), record)


@pytest.mark.slow
def test_evaluate_follows_no_key_of_a_run_json(project, tmp_path):
    """As one of before had it: what is removed is found by what lies in .runs, and by nothing that travels."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "result.json").write_text("{}")
    record = project | {"training_key": str(tmp_path / "precious")}
    paths.write_json(paths.run_file("pair", 0), record)
    run_folders.delete_finished("pair-0", record["weights_sha256"])
    run_folders.delete_finished("../../precious", record["weights_sha256"])
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize(("key", "value"), [("run", "../../precious"), ("seed", "0/../../x"), ("weights_sha256", "/")])
@pytest.mark.slow
def test_trace_and_predict_refuse_such_a_model(project, key, value):
    paths.write_json(paths.run_file("pair", 0), project | {key: value})
    for read in (lambda folder: trace(load_params(), str(folder)), read_saved_model):
        with pytest.raises(DataError, match=f"{key} is .*no stage wrote that"):
            read(paths.model_dir("pair", 0))


@pytest.mark.slow
def test_trace_refuses_such_tags_of_an_mlflow_run(project):
    experiment = mlflow_run.connect("traced")
    client = mlflow.MlflowClient()
    for tags in ({"run": "../../precious", "seed": "0"}, {"run": "pair", "seed": "٣"}, {"run": "pair", "seed": "0/.."}):
        run = client.create_run(experiment, tags=tags).info.run_id
        with pytest.raises(DataError, match="is none of this pipeline"):
            trace(load_params(), run)


@pytest.mark.slow
def test_trace_refuses_such_a_run_json_of_mlflow(project, tmp_path):
    experiment = mlflow_run.connect("traced")
    client = mlflow.MlflowClient()
    run = client.create_run(experiment, tags={"run": "gone", "seed": "0"}).info.run_id
    paths.write_json(tmp_path / "run.json", project | {"run": "../x"})
    client.log_artifact(run, str(tmp_path / "run.json"))
    with pytest.raises(DataError, match=r"run.json of MLflow's run .*: run is '\.\./x'"):
        trace(load_params(), run)


@pytest.mark.parametrize(
    "start",
    [
        {"depth": {"run": "../../precious", "sha256": "0" * 64}},
        {"depth": {"run": "depth", "sha256": "../x"}},
        {"../x": {"run": "depth", "sha256": "0" * 64}},
        {"depth": {"run": "depth"}},
        {"depth": "depth"},
    ],
)
@pytest.mark.slow
def test_a_run_starts_from_no_file_elsewhere(in_tmp, start):
    paths.write_json(paths.start_file("stitched", 0), start)
    run = type("Run", (), {"name": "stitched", "from_single_task": True})
    with pytest.raises(DataError, match=r"models/start/stitched-0.json"):
        start_of(run, 0)


@pytest.mark.slow
def test_a_digest_file_names_no_other_run(in_tmp, monkeypatch):
    monkeypatch.setattr(single_task_weights, "single_task_sources", lambda params, name: {"depth": "depth"})
    params = type("Params", (), {"runs_from_single_task": ["stitched"]})
    content = {"sha256": "0" * 64, "run": "semseg"}
    paths.write_json(paths.digest_file("depth", 0), content)
    single_task_weights.write_start(params, "stitched", 0)
    assert paths.read_json(paths.start_file("stitched", 0)) == {"depth": {"run": "depth", "sha256": "0" * 64}}


@pytest.mark.parametrize("sample_id", ["../../precious", "/precious", "..", ""])
@pytest.mark.slow
def test_the_index_of_the_store_names_plain_files(in_tmp, sample_id):
    make_store(in_tmp / "data", 3)
    index = next((in_tmp / "data").rglob("index.json"))
    paths.write_json(index, paths.read_json(index) | {"ids": ["0", "1", sample_id]})
    with pytest.raises(DataError, match=r"an id is .*expected a plain name"):
        Store(index.parent, ("depth",))


@pytest.mark.parametrize(("key", "value"), [("root", "../.."), ("root", "/etc"), ("file_name", "../precious.tar")])
@pytest.mark.slow
def test_the_record_of_an_archive_leads_nowhere_else(in_tmp, key, value):
    record = {"file_name": "a.tar", "size": 1, "sha256": "0" * 64, "root": "a", "unpacked_size": 1, key: value}
    paths.write_json(in_tmp / "raw" / "source.json", record)
    with pytest.raises(DataError, match=f"{key} is "), extracted(in_tmp / "raw", in_tmp / "scratch"):
        pass


@pytest.mark.slow
def test_predictions_stay_below_their_folder(in_tmp):
    for name in ("a", "b"):
        (in_tmp / name).mkdir()
        (in_tmp / name / "x.jpg").touch()
    (in_tmp / "x.jpg").touch()
    photos = [Path("a/../x.jpg"), Path("b/x.jpg"), in_tmp / "a" / "x.jpg"]
    found = places(photos, Path("out"))
    assert list(found) == photos
    assert all(".." not in folder.parts for folder in found.values())
    assert len(set(found.values())) == 3
