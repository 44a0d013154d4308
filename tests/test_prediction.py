"""stages.predict: what the network says of a photograph is what `evaluate` scores."""

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import stages.predict
from pipeline import paths
from pipeline.checkpoint import save_weights
from pipeline.datasets.sample import Label, Sample
from pipeline.datasets.store import Store, read_info, write_split
from pipeline.device import choose_device
from pipeline.evaluation import as_map, predict
from pipeline.network import build_network
from pipeline.params import load_params
from stages._entry import run_stage

TASKS = ["semseg", "depth", "normals", "edge"]
PARAMS = {
    "data": {"dataset": "rooms", "tasks": TASKS},
    "training": {"backbone": "hrnet_w18_small", "input_size": [32, 64], "batch_size": 4, "epochs": 1, "lr": 1.0e-3},
    "seeds": [0],
    "runs": {"all": {"architecture": "multi_task", "tasks": TASKS}},
}  # fmt: skip
INFO = {
    "dataset": "rooms", "tasks": TASKS, "classes": {"semseg": ["floor", "wall", "bed"]}, "edge_max_dist": 0.01,
    "splits": {"train": 8, "val": 4}, "digest": "d" * 64, "skipped": {}, "published": False,
}  # fmt: skip
SIZE = (37, 50)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def network(in_tmp, monkeypatch):
    """A network in a project, with its weights in models/all-0."""
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    (in_tmp / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    paths.write_json(paths.PREPARED / "dataset.json", INFO)
    torch.manual_seed(0)
    network = build_network(load_params().run("all"), read_info())
    save_weights(network, paths.weights_file("all", 0))
    return network


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.predict.main, parser=stages.predict.parser(), argv=arguments)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def label(task: str) -> Label:
    kind = {"semseg": np.uint8, "edge": np.uint8}.get(task, np.float32)
    return Label(np.ones((*SIZE, 3) if task == "normals" else SIZE, kind), np.ones(SIZE, bool))


def test_it_is_what_evaluation_scores(network, in_tmp, capsys):
    Image.fromarray(PHOTO).save("photo.png")
    code, out, _ = run(capsys, "models/all-0", "photo.png")
    assert (code, out) == (0, "predictions/photo.png\n")
    write_split(in_tmp / "val", [Sample("0", PHOTO, {task: label(task) for task in TASKS})], TASKS)
    run_of, device = load_params().run("all"), choose_device("float32", True)
    store = Store(in_tmp / "val", TASKS)
    ((_, expected),) = predict(device.network(network), store, run_of.tasks, run_of.training, 1, device)
    for task in TASKS:
        found = np.load(f"predictions/photo.png/{task}.npy")
        np.testing.assert_array_equal(found, as_map(expected[task][0]))
        assert cv2.imread(f"predictions/photo.png/{task}.png").shape == PHOTO.shape
    assert np.allclose(np.linalg.norm(np.load("predictions/photo.png/normals.npy"), axis=-1), 1, atol=0.3)


def test_a_photograph_that_is_turned_by_its_tag_is_seen_upright(network, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(PHOTO).save("turned.png", exif=exif)
    assert run(capsys, "all-0", "turned.png", "--out", "there")[0] == 0
    assert np.load("there/turned.png/depth.npy").shape == SIZE[::-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["alll-0", "photo.png"], "unknown run 'alll'; did you mean 'all'?"),
        (["all", "photo.png"], "'all' is not of the form <run>-<seed>, as the folders in models are"),
        (["all-3", "photo.png"], "no weights in models/all-3/weights.safetensors"),
        (["all-0", "nowhere.png"], "nowhere.png"),
        (["all-0", "params.yaml"], "params.yaml is not an image, or a damaged one"),
    ],
)
def test_mistakes_are_told(network, capsys, arguments, told):
    Image.fromarray(PHOTO).save("photo.png")
    code, _, err = run(capsys, *arguments)
    assert code == 2 and told in err and "Traceback" not in err
