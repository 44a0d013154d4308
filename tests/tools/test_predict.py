"""stages.predict: what the network says of a photograph is what `evaluate` scores."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

import stages.predict
from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.core.integrity import file_sha256
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store, read_info, write_split
from pipeline.evaluation.scoring import as_map, predict
from pipeline.networks.from_params import build_network
from pipeline.networks.saved_weights import load_weights
from pipeline.params.load import load_params
from stages._entry import run_stage
from tests.support.saved_run import rooms_info, save_run

TASKS = ["semseg", "depth", "normals", "edge"]
PARAMS = {
    "data": {"dataset": "rooms", "tasks": TASKS},
    "training": {"backbone": "hrnet_w18_small", "input_size": [32, 64], "batch_size": 4, "epochs": 1, "lr": 1.0e-3},
    "seeds": [0],
    "runs": {"all": {"architecture": "multi_task", "tasks": TASKS}},
}  # fmt: skip
INFO = rooms_info(TASKS)
SIZE = (37, 50)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def network(in_tmp, monkeypatch):
    """A network in a project, with its weights in models/all-0."""
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    return save_run(in_tmp, "all", PARAMS, INFO)


def change_run_file(**changes: object) -> None:
    """Make run.json say something else."""
    paths.write_json(paths.run_file("all", 0), paths.read_json(paths.run_file("all", 0)) | changes)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.predict.main, parser=stages.predict.parser(), argv=arguments, needs_params=False)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def label(task: str) -> Label:
    kind = {"semseg": np.uint8, "edge": np.uint8}.get(task, np.float32)
    return Label(np.ones((*SIZE, 3) if task == "normals" else SIZE, kind), np.ones(SIZE, bool))


def test_it_is_what_evaluation_scores(network, in_tmp, capsys):
    Image.fromarray(PHOTO).save("photo.png")
    code, out, _ = run(capsys, "models/all-0", "photo.png")
    assert (code, out) == (0, "predictions/photo\n")
    write_split(in_tmp / "val", [Sample("0", PHOTO, {task: label(task) for task in TASKS})], TASKS)
    run_of, device = load_params().run("all"), choose_device("float32", True)
    store = Store(in_tmp / "val", TASKS)
    ((_, expected),) = predict(device.network(network), store, run_of.tasks, run_of.training, 1, device)
    for task in TASKS:
        found = np.load(f"predictions/photo/all-0/{task}.npy")
        np.testing.assert_array_equal(found, as_map(expected[task][0]))
        assert cv2.imread(f"predictions/photo/all-0/{task}.png").shape == PHOTO.shape
    assert np.allclose(np.linalg.norm(np.load("predictions/photo/all-0/normals.npy"), axis=-1), 1, atol=0.3)


def test_a_photograph_that_is_turned_by_its_tag_is_seen_upright(network, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(PHOTO).save("turned.png", exif=exif)
    assert run(capsys, "all-0", "turned.png", "--out", "there")[0] == 0
    assert np.load("there/turned/all-0/depth.npy").shape == SIZE[::-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["alll-0", "photo.png"], "no weights in models/alll-0/weights.safetensors"),
        (["alll-0", "photo.png"], "; models holds all-0"),
        (["all", "photo.png"], "'all' is not of the form <run>-<seed>, as the folders in models are"),
        (["all-3", "photo.png"], "no weights in models/all-3/weights.safetensors"),
        (["all-0", "nowhere.png"], "1 of 1 photographs are no files: nowhere.png; nothing was done"),
        (["all-0", "photo.png", "models"], "models is a folder without pictures (.jpg, .jpeg, .png,"),
        (["all-0,models/all-0", "photo.png"], "two of the networks lie in folders called all-0, and would share their"),
        (["all-0,", "photo.png"], "'' is not of the form <run>-<seed>"),
        (["all-0", "params.yaml"], "params.yaml is not an image, or a damaged one"),
        (["all-0", "photo", "--out", "."], "photo is a file where the folder of results of photo should"),
        (["all-0", "photo.png", "--out", "photo.png"], "photo.png is a file where the folder of results"),
    ],
)
def test_mistakes_are_told(network, capsys, arguments, told):
    Image.fromarray(PHOTO).save("photo.png")
    shutil.copy("photo.png", "photo")
    code, _, err = run(capsys, *arguments)
    assert code == 2 and told in err and "Traceback" not in err


@pytest.mark.slow
def test_the_models_folder_alone_is_enough(network, in_tmp, tmp_path_factory, monkeypatch, capsys):
    """Without params.yaml and data, under another name: the same predictions."""
    Image.fromarray(PHOTO).save("photo.png")
    assert run(capsys, "all-0", "photo.png")[0] == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree("models/all-0", elsewhere / "kitchen")
    Image.fromarray(PHOTO).save(elsewhere / "photo.png")
    monkeypatch.chdir(elsewhere)
    assert run(capsys, str(elsewhere / "kitchen"), "photo.png") == (0, "predictions/photo\n", "")
    there, here = elsewhere / "predictions/photo/kitchen", in_tmp / "predictions/photo/all-0"
    for task in TASKS:
        for kind in ("npy", "png"):
            assert (there / f"{task}.{kind}").read_bytes() == (here / f"{task}.{kind}").read_bytes()


@pytest.mark.slow
def test_what_has_become_of_params_and_data_does_not_matter(network, in_tmp, capsys):
    Image.fromarray(PHOTO).save("photo.png")
    (in_tmp / "params.yaml").write_text(yaml.safe_dump(PARAMS).replace("hrnet_w18_small", "resnet18"))
    paths.write_json(paths.PREPARED / "dataset.json", INFO | {"classes": {"semseg": ["a", "b"]}})
    assert run(capsys, "all-0", "photo.png")[0] == 0
    assert np.load("predictions/photo/all-0/semseg.npy").max() <= 2


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda: paths.run_file("all", 0).unlink(), "run.json is missing: it describes the network"),
        (
            lambda: change_run_file(version=0),
            "run.json is of version 0, this code reads version 1; run `dvc repro`",
        ),
        (
            lambda: change_run_file(dataset=None),
            "run.json says dataset = None (input should be an object): no stage of ",
        ),
        (lambda: change_run_file(inputs={}), "run.json does not describe a network that this version can build"),
        (lambda: change_run_file(weights_sha256="0" * 64), "or not the file that models/all-0/run.json describes"),
        (lambda: paths.run_file("all", 0).write_text("{"), "run.json is damaged"),
    ],
)
@pytest.mark.slow
def test_a_folder_that_is_not_enough(network, capsys, harm, told):
    Image.fromarray(PHOTO).save("photo.png")
    harm()
    code, out, err = run(capsys, "all-0", "photo.png")
    assert (code, out) == (2, "") and told in err and len(err.splitlines()) == 1


@pytest.mark.slow
def test_weights_of_another_network_are_told_in_a_line(network):
    other = build_network(load_params().run("all").model_copy(update={"tasks": ("semseg", "depth")}), read_info())
    with pytest.raises(DataError) as caught:
        load_weights(other, path := paths.weights_file("all", 0), file_sha256(path), paths.run_file("all", 0))
    told = str(caught.value)
    assert len(told) < 400 and "\n" not in told
    assert told.startswith("models/all-0/weights.safetensors holds the weights of another network: it has ")


@pytest.mark.slow
def test_photographs_of_one_name_do_not_write_over_each_other(network, in_tmp, capsys):
    for i, folder in enumerate(("a", "b", "b/a")):
        (in_tmp / folder).mkdir()
        Image.fromarray(np.roll(PHOTO, i, axis=2)).save(f"{folder}/x.png")
    Image.fromarray(PHOTO).save("a/y.png")
    code, out, _ = run(
        capsys, "all-0", "a/x.png", "b/x.png", "a/y.png", "b/a/x.png", "./a/x.png", str(in_tmp / "b/x.png")
    )
    top = in_tmp.name
    assert code == 0
    assert out.splitlines() == [
        f"predictions/{top}/a/x", "predictions/b/x", "predictions/y", "predictions/b/a/x"
    ]  # fmt: skip
    found = [np.load(f"{folder}/all-0/depth.npy") for folder in out.splitlines()]
    assert not any(np.array_equal(found[i], found[j]) for i, j in ((0, 1), (0, 3), (1, 3)))


@pytest.mark.slow
def test_a_folder_stands_for_its_pictures_and_two_that_differ_in_the_ending_keep_it(network, in_tmp, capsys):
    (in_tmp / "trip/more").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "a.png", ".hidden.png", "more/c.png"):
        Image.fromarray(PHOTO).save(in_tmp / "trip" / name)
    (in_tmp / "trip/notes.txt").write_text("none")
    (in_tmp / "trip/folder.png").mkdir()
    code, out, err = run(capsys, "all-0", "trip", "trip/b.png")
    assert (code, out.splitlines(), err) == (0, ["predictions/a.JPG", "predictions/a.png", "predictions/b"], "")
    Image.fromarray(PHOTO).save(in_tmp / "b.png")
    shutil.copy("b.png", "b.png.png")
    assert run(capsys, "all-0", "b.png", "b.png.png")[1].splitlines() == ["predictions/b", "predictions/b.png.png"]


@pytest.mark.slow
def test_several_networks_lie_beside_one_another_and_on_one_page(network, in_tmp, capsys):
    Image.fromarray(PHOTO).save("photo.png")
    shutil.copytree("models/all-0", "other")
    code, out, _ = run(capsys, "all-0,other", "photo.png")
    assert (code, out) == (0, "predictions/photo\n")
    found = sorted(str(path.relative_to("predictions/photo")) for path in Path("predictions/photo").rglob("*.*"))
    files = [*(f"{task}.{kind}" for task in TASKS for kind in ("npy", "png")), "depth.16bit.png"]
    expected = [f"{name}/{file}" for name in ("all-0", "other") for file in files]
    assert found == sorted([*expected, "overview.png"])
    assert cv2.imread("predictions/photo/overview.png").size > 100_000


@pytest.mark.slow
def test_networks_with_other_classes_are_not_shown_side_by_side(network, in_tmp, capsys):
    Image.fromarray(PHOTO).save("photo.png")
    shutil.copytree("models/all-0", "other")
    dataset = paths.read_json(Path("other/run.json"))["dataset"] | {"classes": {"semseg": ["a", "b", "c"]}}
    paths.write_json(Path("other/run.json"), paths.read_json(Path("other/run.json")) | {"dataset": dataset})
    code, out, err = run(capsys, "all-0,other", "photo.png")
    assert (code, out) == (2, "") and "all-0 and other have other classes of semseg" in err


@pytest.mark.slow
def test_one_that_is_damaged_does_not_stop_the_others(network, in_tmp, capsys):
    for name in ("1.png", "3.png"):
        Image.fromarray(PHOTO).save(name)
    (in_tmp / "2.png").write_bytes((in_tmp / "1.png").read_bytes()[:900])
    code, out, err = run(capsys, "all-0", "1.png", "2.png", "3.png")
    assert (code, out) == (2, "predictions/1\npredictions/3\n")
    assert "2.png" in err and "1 of 3 photographs could not be read and were left out" in err


@pytest.mark.slow
def test_nothing_is_done_when_one_is_missing(network, in_tmp, capsys):
    Image.fromarray(PHOTO).save("1.png")
    code, out, err = run(capsys, "all-0", "1.png", "nowhere.png")
    assert (code, out) == (2, "") and "nowhere.png" in err and not (in_tmp / "predictions").exists()
