"""stages.export: what lies in a folder predicts what evaluation scored, elsewhere too, and nothing wrong is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import pipeline
import stages.export
from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store, write_split
from pipeline.evaluation.scoring import as_map, predict
from pipeline.results.comparison import Comparison, Gain, Row
from pipeline.results.run_metrics import PrimaryMetric
from pipeline.tools.export.card import summary
from pipeline.tools.export.config import read_config
from pipeline.tools.export.mlflow_model import aliases
from pipeline.tools.export.trained import read_trained
from stages._entry import run_stage
from tests.support.narrow_vit import NARROW_VIT
from tests.support.result_files import comparison, run_metrics
from tests.support.saved_network import TASKS, put_graph, save_network

ROOT = Path(__file__).parents[2]
EXPORTED = Path("exports/net-0")
SIZE = (37, 50)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def export(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.export.main, parser=stages.export.parser(), argv=arguments, needs_params=False)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.fixture
def network(in_tmp):
    put_graph(in_tmp)
    return save_network()


@pytest.fixture
def exported(network, capsys):
    assert export(capsys, "net-0") == (0, "exports/net-0\n", "")
    return EXPORTED


def label(task: str) -> Label:
    kind = {"semseg": np.uint8, "edge": np.uint8}.get(task, np.float32)
    return Label(np.ones((*SIZE, 3) if task == "normals" else SIZE, kind), np.ones(SIZE, bool))


def scored(network, folder: Path) -> dict[str, np.ndarray]:
    """What `evaluate` scores of PHOTO, by its own code."""
    run, _, net = network
    write_split(folder, [Sample("0", PHOTO, {task: label(task) for task in TASKS})], TASKS)
    device = choose_device("float32", True)
    ((_, found),) = predict(device.network(net), Store(folder, TASKS), run.tasks, run.training, 1, device)
    return {task: as_map(found[task][0]) for task in TASKS}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for task in found:
        assert found[task].dtype == expected[task].dtype
        np.testing.assert_allclose(found[task], expected[task], rtol=0, atol=1e-5)


def test_a_folder_predicts_what_evaluation_scores(network, exported, in_tmp):
    model = pipeline.load_model(exported)
    assert model.tasks == tuple(TASKS) and model.classes == {"semseg": ["floor", "wall", "bed"]}
    expected = scored(network, in_tmp / "val")
    assert_same(model(PHOTO), expected)
    assert_same(pipeline.load_model("models/net-0")(PHOTO), expected)


def test_a_network_with_position_embeddings_for_its_input_size(in_tmp):
    """InvPT on depths: a ViT that is made without the size has others, and the weights would not fit."""
    put_graph(in_tmp)
    network = save_network("invpt", backbone=NARROW_VIT, width=64, vit_maps="depths")
    assert_same(pipeline.load_model("models/net-0")(PHOTO), scored(network, in_tmp / "store"))


# All that pyproject.toml lists beside torch, torchvision, timm, numpy and safetensors; timm itself takes PyYAML.
ABSENT = (
    "cv2", "dvc", "embreex", "mlflow", "matplotlib", "optuna", "pandas", "psutil", "pyarrow",
    "pydantic", "ruamel", "scipy", "sqlalchemy", "trimesh",
)  # fmt: skip
ELSEWHERE = """
import sys, numpy as np
sys.modules.update(dict.fromkeys({absent!r}))  # None: it can't be imported
import pipeline
assert "torch" not in sys.modules
model = pipeline.load_model("kitchen")
np.savez("maps.npz", **model(np.load("image.npy")))
for path, image in (("kitchen", np.zeros((5, 5, 3), np.uint8)), ("models/net-0", None)):
    try:
        pipeline.load_model(path)(image)
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""


@pytest.mark.e2e
def test_a_folder_needs_few_packages(network, exported, tmp_path_factory):
    """In a process in which all others are missing; OpenCV is asked for where an image has to be resized."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(exported, elsewhere / "kitchen")
    shutil.copytree("models", elsewhere / "models")
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    np.save(elsewhere / "image.npy", image)
    program = [sys.executable, "-c", ELSEWHERE.format(absent=ABSENT)]
    done = subprocess.run(
        program, cwd=elsewhere, env={"PYTHONPATH": str(ROOT), "PIPELINE_DEVICE": "cpu"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert messages[0].startswith("DataError: cv2 is not installed, and resizes an image of 5x5 to the network's 64x96")
    assert messages[1].startswith("DataError: models/net-0 holds no config.json, and without ")
    assert_same(dict(np.load(elsewhere / "maps.npz")), pipeline.load_model(exported)(image))


def changed(folder: Path, **values: object) -> None:
    """Another config.json with a checksum that fits."""
    content = json.loads((folder / "config.json").read_text()) | values
    content.pop("checksum")
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(content | {"checksum": digest}))


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    first, *_ = tensors
    save_file({name: each for name, each in tensors.items() if name != first}, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    changed(folder, weights_sha256=digest)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.slow
def test_what_is_damaged_foreign_or_newer_is_refused_in_a_line(exported, in_tmp):
    config, weights = "config.json", "model.safetensors"
    cases = [
        (lambda f: cut(f / config), "config.json is damaged"),
        (lambda f: (f / config).write_text((f / config).read_text().replace('"m"', '"km"')), "its checksum is another"),
        (lambda f: (f / config).write_text('{"model_type": "bert"}'), "describes no network of this pipeline"),
        (lambda f: changed(f, version=2), "is of version 2, this code reads versions up to 1: update the code"),
        (lambda f: changed(f, colour="red"), "lacks, or has beyond what is known: colour"),
        (lambda f: changed(f, tasks=["semseg"]), "says tasks = ['semseg'], expected dict[str, int]"),
        (lambda f: changed(f, architecture="mlp"), "version can't build (Unknown architecture: 'mlp'"),
        (lambda f: changed(f, tasks={"flow": 2}), "is of tasks that this version does not know: flow"),
        (lambda f: changed(f, normalization="zca"), "says normalization = 'zca'"),
        (lambda f: cut(f / weights), "model.safetensors is damaged, or not the file that "),
        (lambda f: (f / weights).unlink(), "model.safetensors is missing; get the folder again"),
        (other_weights, "holds the weights of another network: it lacks "),
        (shutil.rmtree, "is no folder of a network"),
    ]
    for number, (harm, message) in enumerate(cases):
        folder = in_tmp / f"copy{number}"
        shutil.copytree(exported, folder)
        harm(folder)
        with pytest.raises(DataError) as caught:
            pipeline.load_model(folder)
        assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("image", [PHOTO.astype(np.float32), PHOTO[..., 0], PHOTO[:0]], ids=["float", "grey", "empty"])
def test_another_kind_of_image_is_refused(exported, image):
    with pytest.raises(DataError, match=r"an image is uint8 \(H, W, 3\) RGB, got "):
        pipeline.load_model(exported)(image)


def test_the_card_has_the_scores_of_these_weights_alone(network, capsys):
    config_of = paths.metrics_file("net", 0)
    tasks = {"depth": {"rmse": 0.5123, "images": 8}}
    digest = json.loads(Path("models/net-0/run.json").read_text())["weights_sha256"]
    metrics = run_metrics(run="net", tasks=tasks, primary_metric={"depth": PrimaryMetric("rmse", False)})
    own = replace(comparison(), delta_m={}, per_seed=[Row("net", 0, "depth", "rmse", False, 0.5123, low=0.4, high=0.6)])
    own = replace(own, delta_m={"both": comparison().delta_m["both"]})
    for weights, compared, expected in (
        (digest, own, "| Depth | m | rmse ↓ | 0.51 m | 0.40 to 0.60 |"),
        (digest, replace(own, per_seed=[replace(own.per_seed[0], score=0.5)]), "| Depth | m | rmse ↓ | 0.51 m | - |"),
        ("0" * 64, own, "not scored"),
    ):
        compared.write(paths.DELTA_JSON)
        replace(metrics, weights_sha256=weights).write(config_of)
        assert export(capsys, "net-0")[0] == 0
        card = (EXPORTED / "MODEL_CARD.md").read_text()
        assert expected in card
        trained = read_trained(Path("models/net-0"))
        scored = "depth rmse 0.51" if weights == digest else "not scored"
        assert summary(trained.config, trained.record).startswith(f"{scored}; multi_task on ")
        front = yaml.safe_load(card.split("---\n")[1])
        assert front["license"] == "apache-2.0" and ("model-index" in front) == (weights == digest)
    assert "0.51" not in card


def test_a_folder_is_replaced_and_nothing_else_is(exported, capsys):
    (exported / "config.json").write_bytes((exported / "config.json").read_bytes() + b"\n")
    assert export(capsys, "net-0")[0] == 0
    assert not (exported / "config.json").read_bytes().endswith(b"\n\n")
    assert sorted(path.name for path in exported.parent.iterdir()) == ["net-0"]  # nothing half written is left
    (exported / "notes.txt").write_text("mine")
    code, _, err = export(capsys, "net-0")
    assert code == 2 and "exports/net-0 exists and is no folder that stages.export wrote" in err
    assert (exported / "notes.txt").exists()
    assert export(capsys, "net-0,models/net-0", "--out", "x")[0] == 2
    assert export(capsys, "nett-0")[0] == 2


def test_the_config_names_where_the_network_comes_from(exported):
    config = read_config(exported / "config.json")
    assert (config.name, config.input_size, config.mean) == ("net-0", [64, 96], [0.485, 0.456, 0.406])
    assert config.units == {"semseg": "class index", "depth": "m", "normals": "unit vector", "edge": "probability"}
    assert config.provenance["dataset_digest"] == "d" * 64 and config.provenance["mlflow_run"] == "unknown"


def test_a_registered_network_gets_the_names_of_its_run_by_the_first_seed(exported):
    config = read_config(exported / "config.json")
    rows = [Row(run, seed, "depth") for run in ("net", "other", "v2") for seed in (1, 2)]
    gains = {run: Gain(mean, 0.1, 2) for run, mean in (("net", 1.0), ("other", -1.0))}
    delta = replace(
        comparison(),
        delta_m=gains,
        runs=dict.fromkeys(("net", "other", "v2")),
        scores=dict.fromkeys(("net", "other", "v2")),
        per_seed=rows,
    )

    def named(run: str, seed: int, delta: Comparison | None = delta) -> list[str]:
        return aliases(replace(config, run=run, seed=seed), delta)

    assert named("net", 1) == ["net-1", "net", "best"]
    assert named("net", 2) == ["net-2"], "not the best of the seeds"
    assert named("other", 1) == ["other-1", "other"]
    assert named("v2", 1) == ["v2-1"], "MLflow keeps such names for versions"
    turned = replace(delta, per_seed=[*reversed(rows), Row("net-2", 1, "depth")])
    assert named("net", 2, turned) == ["net-2", "net", "best"], "the first in the order of params"
    assert named("net-2", 1, turned) == ["net-2-1"], "net-2 is another network's"
    assert named("net", 1, None) == named("net", 1, replace(delta, per_seed=[])) == ["net-1"]
