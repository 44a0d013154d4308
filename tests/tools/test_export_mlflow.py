"""stages.export --to mlflow: the model that a fresh process loads, and `stages.predict`, give what the network does."""

from __future__ import annotations

import re
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from PIL import Image

import pipeline
import stages.export
import stages.predict
from pipeline.core.errors import DataError
from pipeline.core.integrity import file_sha256
from pipeline.tools.predict import predictors_of
from pipeline.tracking import mlflow_run
from stages._entry import run_stage
from tests.support.mlflow_store import put_empty_store
from tests.support.saved_network import put_graph, save_network

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TASKS = ["semseg", "depth"]
SIZE = (64, 96)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
ELSEWHERE = """
import sys, mlflow, numpy as np, torch
mlflow.set_tracking_uri(sys.argv[1])
image = np.load("image.npy")
model = mlflow.pytorch.load_model("models:/rooms@net-0")
np.save("maps.npy", model(torch.from_numpy(image)).detach().numpy())
np.save("pyfunc.npy", mlflow.pyfunc.load_model("models:/rooms@net-0").predict(image))
assert "pipeline" not in sys.modules
"""


def run(module, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run_stage(module.main, parser=module.parser(), argv=arguments, needs_params=False)
    return ended.value.code


def test_a_registered_network_predicts_what_it_did_here(in_tmp, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(in_tmp))
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    put_graph(in_tmp)
    put_empty_store(in_tmp)
    save_network(tasks=TASKS, input_size=SIZE)
    assert run(stages.export, "net-0", "--to", "mlflow") == 2
    assert "MLflow's store has no run that made the weights of net-0" in capsys.readouterr().err

    weights = file_sha256(in_tmp / "models/net-0/weights.safetensors")
    tags = {"input_fingerprint": "f", "run": "net", "seed": "0", "weights_sha256": weights}
    with mlflow_run.training_run(mlflow_run.connect("rooms"), "net-0", "a", tags) as log:
        pass
    before = mlflow.MlflowClient().get_run(log.id).info
    assert run(stages.export, "net-0", "--to", "mlflow") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "models:/rooms/1"
    after = mlflow.MlflowClient().get_run(log.id).info
    version = mlflow.MlflowClient().get_model_version_by_alias("rooms", "net-0")
    assert version.tags == {"run": "net", "seed": "0", "weights_sha256": weights}
    assert re.fullmatch(r"not scored; \w+ on \w+", version.description), version.description
    assert "'models:/rooms@net-0'" in mlflow.MlflowClient().get_registered_model("rooms").description
    assert (after.status, after.end_time) == (before.status, before.end_time)

    expected = pipeline.load_model("models/net-0", "cpu")(PHOTO)
    image = np.repeat(PHOTO.transpose(2, 0, 1)[None] / np.float32(255), 3, axis=0)
    np.save("image.npy", image)
    uri = f"sqlite:///{in_tmp / 'mlflow.db'}"
    elsewhere = [sys.executable, "-c", ELSEWHERE, uri]
    subprocess.run(elsewhere, cwd=in_tmp, check=True, timeout=300, capture_output=True)
    for name in ("maps", "pyfunc"):
        maps = np.load(f"{name}.npy")
        assert maps.shape == (3, 2, *SIZE)
        assert (maps[:, 0] == expected["semseg"]).mean() > 0.999  # where two classes are as good as equal, either
        np.testing.assert_allclose(maps[:, 1], np.broadcast_to(expected["depth"], (3, *SIZE)), rtol=1e-4, atol=1e-5)

    Image.fromarray(PHOTO).save("photo.png")
    assert run(stages.predict, "models:/rooms@net-0,net-0", "photo.png") == 0
    for task in TASKS:
        registered, here = (np.load(f"predictions/photo/{name}/{task}.npy") for name in ("rooms@net-0", "net-0"))
        np.testing.assert_array_equal(registered, here)
    with pytest.raises(DataError, match="two of the networks lie in folders called rooms@net-0"):
        predictors_of(2 * [stages.predict.model_folder("models:/rooms@net-0")])
    assert run(stages.predict, "models:/rooms@other", "photo.png") == 2
    assert "Traceback" not in capsys.readouterr().err
