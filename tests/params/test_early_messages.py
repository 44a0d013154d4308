"""What can't work is said, or made to work, before a training begins; each of these ended one, or kept it waiting."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt

from pipeline.core import paths
from pipeline.core.errors import DataError, ParamsError, TrackingError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store, write_split
from pipeline.evaluation.cost import dataset_info
from pipeline.evaluation.dry_run import check_batch_norm, check_network
from pipeline.networks.pretrained import _read
from pipeline.params.load import parse_params
from pipeline.params.schema import Params
from pipeline.report.cells import picture as picture_of
from pipeline.report.markdown import _table
from pipeline.report.tables import _metric_table
from pipeline.tracking.mlflow_run import connect, training_run
from pipeline.tracking.run_log import metric_names
from pipeline.train import train_run
from tests.support.params_tree import some_params

# -- MLflow --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_names_of_classes_that_mlflow_refuses(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name arrives, none takes another's place, and those that MLflow takes stay as they are."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    classes = ["floor (tiles)", "floor [tiles]", "wall", "sofa/bed", "50 %", "#", "?", "..", "étagère", "漢字"]
    values = {f"semseg/IoU/{name}": i / 10 for i, name in enumerate([*classes, "", "/", "y" * 300])}
    with training_run(connect("test"), "pair-0", "key", {}) as log:
        log.metrics(values, 1)
        log.scores(values | {"semseg/mIoU (all)": 2.0})
        log.finish()
        found = log._client.get_run(log.id).data.metrics
    assert sorted(found.values()) == sorted([*values.values(), 2.0])
    assert found["semseg/IoU/wall"] == 0.2 and found["semseg/IoU/étagère"] == 0.8 and found["semseg/IoU/50 _"] == 0.4
    first, second = (metric_names(values)[f"semseg/IoU/floor {brackets}"] for brackets in ("(tiles)", "[tiles]"))
    assert re.fullmatch(r"semseg/IoU/floor _tiles_-[0-9a-f]{8}", first) and first != second


@pytest.mark.parametrize(
    "uri", ["postgresql://u:p@localhost/db", "mysql://u:p@localhost/db", "mssql://u:p@localhost/d"]
)
def test_a_database_without_its_driver(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as caught:
        connect("test")
    says = str(caught.value)
    assert "\n" not in says and says.startswith(f"MLFLOW_TRACKING_URI names a database of the kind {uri.split(':')[0]}")
    assert "driver is not installed (No module named" in says and "Nothing was started" in says


# -- weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["numpy._core", "numpy.core"])
def test_numpy_scalars_in_a_weights_file(tmp_path: Path, place: str) -> None:
    """Trainers save the best score so far beside the weights; NumPy 1 and 2 name its maker's place differently."""
    scores = {"best": np.float64(0.5), "epoch": np.int64(3), "lr": np.float32(0.25), "done": np.bool_(True)}
    torch.save({"state_dict": {"w": torch.ones(2)}, **scores}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    made_by = b"c%s.multiarray\nscalar\n"
    assert content.count(b"multiarray\nscalar") >= 1
    content = re.sub(rb"cnumpy\.(_core|core)\.multiarray\nscalar\n", made_by % place.encode(), content)
    (tmp_path / "a.pth").write_bytes(content)
    found = _read(tmp_path / "a.pth")
    assert torch.equal(found["state_dict"]["w"], torch.ones(2))
    assert {name: found[name] for name in scores} == scores


HUB = """
import time, json
from pipeline.core.errors import TrainingError
from pipeline.networks.pretrained import load_pretrained
import huggingface_hub.constants as constants, timm
net = timm.create_model("hrnet_w18_small")
start = time.monotonic()
try:
    load_pretrained(net, "hrnet_w18_small", True)
except TrainingError as error:
    print(json.dumps([time.monotonic() - start, str(error), constants.HF_HUB_OFFLINE]))
"""


@pytest.mark.slow
def test_a_hub_that_is_out_of_reach_is_not_asked_for_a_minute(tmp_path: Path, root: Path) -> None:
    refused = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= refused | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, timeout=150)
    seconds, says, offline = json.loads(done.stdout)
    assert seconds < 20 and offline is False  # three on an idle core; 47 before
    assert "bring model.safetensors of the hub's repository 'timm/hrnet_w18_small.gluon_in1k'" in says


# -- labels and batches --------------------------------------------------------------------------------------


def one_run(**training: object) -> Params:
    raw = some_params()
    raw["training"] |= training
    raw["runs"] = {
        "both": {"architecture": "multi_task", "tasks": ["semseg", "depth"], "auxiliary_tasks": ["edge"]},
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
    }
    return parse_params(raw)


def store(folder: Path, unlabelled: tuple[str, ...]) -> Store:
    tasks = ["semseg", "depth", "edge"]

    def label(task: str) -> Label:
        value = np.ones((8, 8), np.float32 if task == "depth" else np.uint8)
        return Label(value, np.full((8, 8), task not in unlabelled))

    image = np.zeros((8, 8, 3), np.uint8)
    write_split(folder, [Sample(str(i), image, {task: label(task) for task in tasks}) for i in range(3)], tasks)
    return Store(folder, tasks)


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        ((), (), None),
        ((), ("edge",), None),  # an auxiliary task is not scored
        (("depth",), (), "run both: no training sample has a valid pixel for depth"),
        (("edge",), (), "run both: no training sample has a valid pixel for edge"),
        ((), ("semseg",), "run both: no validation sample has a valid pixel for semseg"),
    ],
)
def test_a_task_without_one_labelled_pixel(in_tmp: Path, train, val, says: str | None) -> None:
    for split, unlabelled in (("train", train), ("val", val)):
        store(paths.PREPARED / split, unlabelled)
    run = one_run().run("both")

    def check() -> None:
        _, scored = train_run._stores(run, selects=False)
        train_run._check_scored(run, scored)

    if says is None:
        check()
        return
    with pytest.raises(DataError, match=says):
        check()


TRIED = [
    (architecture, backbone, size)
    for architecture, backbone in (
        ("single_task", "resnet18"), ("single_task", "convnext_atto"), ("multi_task", "resnet18"), ("atrc", "resnet18")
    )
    for size in ((32, 32), (32, 64))
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "backbone", "size"), TRIED)
@pytest.mark.slow
def test_batch_norm_of_one_value_is_refused_where_torch_would(architecture: str, backbone: str, size) -> None:
    """Compared with a real step's forward pass: neither what works is refused nor what fails let through."""
    raw = some_params()
    tasks = ["depth"] if architecture == "single_task" else ["depth", "semseg"]
    raw["runs"] = {"x": {"architecture": architecture, "tasks": tasks}}
    raw["training"] |= {"backbone": backbone, "input_size": list(size), "batch_size": 2, "accumulate": 2}
    params = parse_params(raw)
    run, info = params.run("x"), dataset_info(params.data)
    network = train_run.build_network(run, info).train()
    try:
        network(torch.randn(1, 3, *size))
        works = True
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)
        works = False
    state = torch.get_rng_state()
    if works:
        check_network(run, info)
    else:
        with pytest.raises(ParamsError, match=r"run x: batch norm can't be trained on one image of 32x32 pixels"):
            check_network(run, info)
    assert torch.equal(torch.get_rng_state(), state)
    check_batch_norm(run, info, 2)


# -- the report ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "img (1)", "a]b[c", "x#1?", "50%", "é漢", "a<b>", r"back\slash", "`tick`"])
def test_links_of_pictures_survive_any_name(name: str) -> None:
    found: list[dict[str, str | None]] = []

    class Pictures(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append(dict(attributes)) if tag == "img" else None

    Pictures().feed(MarkdownIt().render(picture_of(name, f"figures/{name}.png")))
    ((picture),) = found
    assert (picture["alt"], unquote(picture["src"])) == (name, f"figures/{name}.png")


def test_a_class_with_a_bar_keeps_its_row_in_the_table() -> None:
    table = _table(_metric_table({"run": [{"IoU/a|b": 0.5}]}, ["IoU/a|b"]))
    rows = MarkdownIt().enable("table").render(table).split("<tr>")
    assert len(rows) == 3 and "<td>IoU/a|b</td>" in rows[-1] and "0.500</td>" in rows[-1]
