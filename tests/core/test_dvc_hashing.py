"""What DVC does not hash, or knows by name alone: refused, or named, before anything is trained from it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.core import paths
from pipeline.core.dvc_hashing import check_hashed, unhashed
from pipeline.core.errors import DataError
from pipeline.datasets import folder
from pipeline.download.archive import fetch
from pipeline.download.catalog import Archive
from pipeline.params.load import parse_params
from pipeline.params.schema import Data
from pipeline.tools.changed_sources import changed_adopted, changed_archive, changed_weights, refuse_unseen
from tests.support import forked
from tests.support.nyud_archive import nyud_files, write_tgz
from tests.support.params_tree import put, some_params
from tests.support.result_files import run_record

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def dvc(*arguments: str) -> str:
    """What it prints, as a fork of a process that has imported it."""
    code, output = forked.run(Path.cwd(), ("dvc", *arguments), os.environ | {"DVC_NO_ANALYTICS": "1"})
    assert code == 0, output
    return output


def file(path: str, text: str = "a") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


# What is done below data/own, and the file whose edit shows whether DVC hashes it.


def plain() -> Path:
    return file("data/own/images/1.png")


def linked_file() -> Path:
    file("data/own/images/2.png")
    Path("data/own/images/1.png").symlink_to(file("elsewhere/1.png").resolve())
    return Path("elsewhere/1.png")


def folder_of_linked_files() -> Path:
    """The remedy: cp -rs."""
    file("elsewhere/1.png")
    file("data/own/gt_sets/train.txt")
    subprocess.run(["cp", "-rs", str(Path("elsewhere").resolve()), "data/own/images"], check=True)
    return Path("elsewhere/1.png")


def the_folder_itself() -> Path:
    changed = file("elsewhere/images/1.png")
    Path("data").mkdir()
    Path("data/own").symlink_to("../elsewhere")
    return changed


def linked_folder() -> Path:
    changed = file("elsewhere/1.png")
    file("data/own/gt_sets/train.txt")
    Path("data/own/images").symlink_to(Path("elsewhere").resolve())
    return changed


def linked_folder_deeper() -> Path:
    changed = file("elsewhere/1.png")
    file("data/own/a/b.txt")
    Path("data/own/a/images").symlink_to("../../../elsewhere")
    return changed


def linked_folder_in_a_linked_one() -> Path:
    changed = file("deeper/1.png")
    file("elsewhere/b.txt")
    Path("elsewhere/images").symlink_to("../deeper")
    Path("data").mkdir()
    Path("data/own").symlink_to("../elsewhere")
    return changed


def project_of_its_own() -> Path:
    Path("data/own/images/.dvc").mkdir(parents=True)
    file("data/own/gt_sets/train.txt")
    return file("data/own/images/1.png")


SEEN = [plain, linked_file, folder_of_linked_files, the_folder_itself]
UNSEEN = [linked_folder, linked_folder_deeper, linked_folder_in_a_linked_one, project_of_its_own]


@pytest.fixture
def repository(in_tmp: Path) -> Path:
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init", "-q")
    stage = {"cmd": "true", "deps": ["data/own"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"prepare": stage}}))
    return in_tmp


@pytest.mark.parametrize("make", SEEN + UNSEEN)
def test_what_dvc_does_not_hash_is_refused_and_nothing_else(repository, make):
    changed = make()
    dvc("repro", "-q")
    changed.write_text("another")
    hashed = "prepare" in json.loads(dvc("status", "--json"))
    assert hashed == (make in SEEN)
    assert bool(list(unhashed(Path("data/own")))) == (not hashed)
    if hashed:
        check_hashed(Path("data/own"))
    else:
        with pytest.raises(DataError, match=r"(?s)data.folder data/own holds what DVC does not hash.*cp -rs"):
            check_hashed(Path("data/own"))


def own_params() -> dict:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["data"] |= {"dataset": "folder", "folder": "data/own"}
    return raw


@pytest.mark.parametrize("name", ["check", "parallel"])
def test_a_linked_folder_is_refused_before_anything_is_trained(in_tmp, name):
    linked_folder()
    Path("params.yaml").write_text(yaml.safe_dump(own_params()))
    code, output = forked.run(in_tmp, (f"stages.{name}",), os.environ)
    assert code == 2
    assert "  data/own/images: a link to the folder" in output and "Traceback" not in output


def test_prepare_refuses_a_linked_folder(in_tmp):
    linked_folder()
    file("data/own/dataset.yaml", yaml.safe_dump({"name": "mine", "tasks": ["depth"]}))
    with pytest.raises(DataError, match="data/own/images: a link to the folder"):
        folder.resolve(paths.RAW, Data(dataset="folder", tasks=("depth",)))


@pytest.mark.parametrize("listed", ["../train.txt", "/train.txt", "gt_sets/../../train.txt"])
def test_a_list_outside_the_folder_is_refused(in_tmp, listed):
    content = {"name": "mine", "tasks": ["depth"], "splits": {"train": listed}}
    file("data/own/dataset.yaml", yaml.safe_dump(content))
    with pytest.raises(DataError, match=r"splits.train: got .*must be the path of a file in the dataset's folder"):
        folder.read_description(Path("data/own"))


# -- files that DVC knows by name ----------------------------------------------------------------------------


def test_an_archive_that_changed_behind_its_name_is_named(in_tmp, monkeypatch):
    archive = Archive("NYUD_MT.tgz", (), None, None, "gt_sets/val.txt")
    Path("archives").mkdir()
    write_tgz(nyud_files(), Path("archives/small.tgz"))
    raw = some_params()
    put(raw, "data", {"dataset": "nyud", "tasks": ["semseg", "depth", "edge"], "archive": "archives/small.tgz"})
    params = parse_params(raw)
    assert not list(changed_archive(params)), "nothing is read yet"
    fetch(archive, paths.RAW, params.data.archive)
    assert not list(changed_archive(params))

    write_tgz(
        {name: content for name, content in nyud_files().items() if "1001" not in name}, Path("archives/small.tgz")
    )
    (message,) = changed_archive(params)
    assert message.startswith("data.archive: ") and message.endswith("run `dvc repro -s -f download`")
    with pytest.raises(DataError, match=r"archives/small.tgz has changed since it was read"):
        refuse_unseen(params)
    monkeypatch.setenv("PIPELINE_ARCHIVES", "archives")  # by its name alone it is another source
    put(raw, "data.archive", "small.tgz")
    assert not list(changed_archive(parse_params(raw))), "DVC sees that the param is another"
    fetch(archive, paths.RAW, params.data.archive)
    assert not list(changed_archive(params)), "what the remedy does"
    Path("archives/small.tgz").unlink()
    assert not list(changed_archive(params)), "what was read is kept"


def test_weights_that_changed_behind_their_name_are_named(in_tmp):
    from pipeline.compute.device import choose_device
    from pipeline.data.store import DatasetInfo
    from pipeline.train.training_inputs import training_inputs

    (in_tmp / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    weights = file("weights.pth", "first")
    raw = some_params()
    put(raw, "runs.both.training.pretrained", "./weights.pth")
    params = parse_params(raw)
    info = DatasetInfo("rooms", (), {}, 0.01, {}, "digest")
    for name, seed in (("both", 0), ("depth", 0)):
        inputs = training_inputs(params, name, seed, info, choose_device("float32", True))
        run_record(run=name, seed=seed, inputs=inputs.values).write(paths.run_file(name, seed))
    assert not list(changed_weights(params))
    weights.write_text("other")
    (message,) = changed_weights(params)
    assert message.startswith("runs.both: pretrained weights.pth has changed since both-0 was trained from it")
    assert message.endswith("run `dvc repro -s -f train@both-0`")
    whole = paths.read_json(paths.run_file("both", 0))
    paths.write_json(paths.run_file("both", 0), whole | {"version": 0})
    assert not list(changed_weights(params)), "a file of another version stops nothing: DVC trains again"
    paths.write_json(paths.run_file("both", 0), whole)
    put(raw, "runs.both.training.pretrained", str(file("third.pth")))
    assert not list(changed_weights(parse_params(raw))), "DVC sees that the param is another"


def test_an_adopted_file_that_is_another_is_named(in_tmp, monkeypatch):
    first = file("first.pth", "first")
    was = hashlib.sha256(b"first").hexdigest()
    raw = some_params()
    put(raw, "seeds", [0, 1])
    put(raw, "runs.both.adopted", {str(seed): {"file": "first.pth", "sha256": was} for seed in (0, 1, 2)})
    params = parse_params(raw)
    assert not list(changed_adopted(params))
    first.write_text("other")
    found = hashlib.sha256(b"other").hexdigest()
    assert list(changed_adopted(params)) == [
        f"runs.both: adopted first.pth is not the file that params.yaml means for seed {seed}: its SHA-256 is {found}, "
        f"not {was}; put that file back, or run `python -m stages.adopt first.pth --as both --seed {seed}` for this one"
        for seed in (0, 1)
    ]
    with pytest.raises(DataError, match=r"is not the file that params.yaml means for seed 0"):
        refuse_unseen(params)
    (in_tmp / "copy").mkdir()
    monkeypatch.chdir(in_tmp / "copy")
    assert not list(changed_adopted(params))
    monkeypatch.setenv("DVC_ROOT", str(in_tmp))
    assert len(list(changed_adopted(params))) == 2, "as from `dvc exp run --temp`"
    (in_tmp / first).unlink()
    assert not list(changed_adopted(params)), "what was made of it may be there still"
