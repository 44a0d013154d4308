"""The page where one drops a photograph: what it answers, and what a real browser shows of it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
import socket
import struct
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

import stages.demo
from pipeline.core import paths
from pipeline.core.errors import ParamsError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import write_split
from pipeline.tools.demo import LARGEST, Demo, examples, server
from pipeline.tools.predict import Predictor
from stages._entry import run_stage
from tests.support.browser import dump_dom
from tests.support.narrow_hrnet import NARROW
from tests.support.saved_run import save_run

TASKS = ["semseg", "depth", "normals", "edge"]
PARAMS = {
    "data": {"dataset": "rooms", "tasks": TASKS},
    "training": {"backbone": NARROW, "input_size": [32, 64], "batch_size": 4, "epochs": 1, "lr": 1.0e-3},
    "seeds": [0],
    "runs": {"all": {"architecture": "multi_task", "tasks": TASKS}},
}  # fmt: skip
CLASSES = ["floor", "<b>wall</b>", "bed"]
INFO = {
    "dataset": "rooms", "tasks": TASKS, "classes": {"semseg": CLASSES}, "edge_max_dist": 0.01,
    "splits": {"train": 8, "val": 2}, "digest": "d" * 64, "skipped": {}, "published": False,
}  # fmt: skip
SIZE = (37, 50)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def running(in_tmp, monkeypatch):
    """The page's server, on a free port, with one network and two photographs of a validation split."""
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    save_run(in_tmp, "all", PARAMS, INFO)
    label = Label(np.zeros(SIZE, np.uint8), np.ones(SIZE, bool))
    write_split(paths.PREPARED / "val", [Sample(name, PHOTO, {"semseg": label}) for name in "ab"], TASKS[:1])
    with server(Demo({"all-0": paths.MODELS / "all-0"}, examples()), "127.0.0.1", 0) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(running, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=60)
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def png(photo: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    return file.getvalue()


def test_it_answers_with_what_the_network_predicts(running):
    assert json.loads(ask(running, "GET", "/networks")[1]) == {
        "networks": ["all-0"],
        "examples": 2,
        "largest": LARGEST,
    }
    assert ask(running, "GET", "/example/1")[1] == cv2.imencode(".png", PHOTO[..., ::-1])[1].tobytes()
    status, body = ask(running, "POST", "/predict/all-0", png(PHOTO))
    answer = json.loads(body)
    predictor = Predictor(paths.MODELS / "all-0")
    expected = predictor(PHOTO)
    assert status == 200 and answer["size"] == [SIZE[1], SIZE[0]]
    for task, picture in predictor.paint(expected).items():
        (of,) = (each for each in answer["tasks"] if each["name"] == task)
        shown = base64.b64decode(of["picture"].removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown))), picture)
    semseg, depth, _, edge = answer["tasks"]
    share = {CLASSES[i]: 100 * float((expected["semseg"] == i).mean()) for i in np.unique(expected["semseg"])}
    assert {each["name"]: each["percent"] for each in semseg["classes"]} == pytest.approx(share, abs=0.051)
    assert depth["range"]["high"] == pytest.approx(float(expected["depth"].max()))
    assert edge["range"]["median"] == pytest.approx(float(np.median(expected["edge"])))
    assert (depth["range"]["unit"], edge["range"]["unit"]) == ("m", "")  # a probability, not in per cent


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "message"),
    [
        ("/predict/all-0", b"no picture", {}, 422, "this file is not an image"),
        ("/predict/other", b"x", {}, 404, "there is no network other"),
        ("/predict/all-0", bytes(LARGEST + 1), {}, 413, "at most 64 MiB"),
        ("/predict/all-0", b"x", {"Host": "rebound.example"}, 403, "this page answers as 127.0.0.1"),
        ("/predict/all-0", b"x", {"Host": "[no"}, 403, "this page answers as 127.0.0.1"),
    ],
)
def test_what_it_refuses(running, path, body, headers, status, message):
    found, answer = ask(running, "POST", path, body, **headers)
    assert found == status and message in json.loads(answer)["error"]
    assert ask(running, "GET", "/example/2")[0] == ask(running, "GET", "/params.yaml")[0] == 404
    assert ask(running, "GET", "/")[0] == 200  # and it still answers


def test_a_port_in_use_and_a_folder_without_networks_are_refused(running, in_tmp, capsys):
    with pytest.raises(ParamsError, match=rf"127.0.0.1:{running.server_port} can't be used"):
        server(Demo({}, []), "127.0.0.1", running.server_port)
    shutil.rmtree(in_tmp / "models" / "all-0")
    for arguments, message in (
        ([], "no run of params.yaml is trained yet: run `make repro` first"),
        (["all-0"], "no weights in models/all-0/weights.safetensors"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run_stage(stages.demo.main, parser=stages.demo.parser(), argv=arguments, needs_params=False)
        assert message in capsys.readouterr().err


def test_whoever_leaves_meanwhile_leaves_no_traceback(running, capsys):
    with socket.create_connection(("127.0.0.1", running.server_port)) as connection:
        connection.sendall(b"POST /predict/all-0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nno")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no good-bye
    assert ask(running, "GET", "/")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_browser_shows_every_task_of_an_example(running, in_tmp):
    shown = dump_dom(f"http://127.0.0.1:{running.server_port}/#example-2", in_tmp)
    assert shown.count("<figure") == 1 + len(TASKS)
    assert all(f"<h2>{title}</h2>" in shown for title in ("Photograph", "Depth", "Surface normals"))
    assert "<b>wall" not in shown  # names of classes are text
    assert f"{SIZE[1]}x{SIZE[0]} pixels in" in shown
