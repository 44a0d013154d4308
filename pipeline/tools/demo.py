"""A page on this machine where one drops a photograph and sees what trained networks make of it. Nothing leaves it.

The standard library serves it: one page (demo.html), and four addresses that it asks for JSON and pictures.
"""

from __future__ import annotations

import base64
import json
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from pipeline.core import paths
from pipeline.core.errors import DataError, ParamsError, PipelineError
from pipeline.data.store import Store, read_info
from pipeline.datasets.files import read_photo_as_seen, shown
from pipeline.tasks import get_task
from pipeline.tasks.spec import TaskContext
from pipeline.tools.predict import Predictor, predictors_of
from pipeline.visual.paint import PAINTERS, paint_classes, palette

LARGEST = 64 * 2**20  # bytes of a photograph
_LONGEST = 1024  # pixels of the longer side of a picture on the page
_EXAMPLES = 6
_PAGE = Path(__file__).with_name("demo.html")


class Demo:
    """What the page can ask for. Networks compute one after the other, whoever asks."""

    def __init__(self, predictors: Mapping[str, Predictor], examples: list[np.ndarray]):
        self._predictors, self._examples = predictors, examples
        self._turn = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """The networks with their tasks, and how many example pictures there are."""
        networks = [{"name": name, "tasks": list(each.run.tasks)} for name, each in self._predictors.items()]
        return {"networks": networks, "examples": len(self._examples)}

    def example(self, index: int) -> bytes:
        """PNG of an example. Raises IndexError."""
        return _png(self._examples[index])

    def predict(self, name: str, photo: bytes) -> dict[str, Any]:
        """Seconds, size, and for each task its title, picture, and key. Raises DataError for what is no photograph."""
        predictor = self._predictors[name]
        with tempfile.NamedTemporaryFile(prefix="photograph-") as file:
            file.write(photo)
            file.flush()
            try:
                image = read_photo_as_seen(Path(file.name))
            except DataError as error:
                raise DataError(str(error).replace(shown(Path(file.name)), "this file")) from None
        with self._turn:
            start = time.perf_counter()
            predictions = predictor(image)
            seconds = time.perf_counter() - start
        pictures, contexts = predictor.paint(predictions), predictor.contexts
        return {
            "seconds": round(seconds, 3),
            "size": [image.shape[1], image.shape[0]],
            "photo": _embedded(image),
            "tasks": [
                {
                    "name": task,
                    "title": get_task(task).title,
                    "picture": _embedded(picture),
                    **_key(task, predictions[task], contexts[task]),
                }
                for task, picture in pictures.items()
            ],
        }


def _key(task: str, prediction: np.ndarray, context: TaskContext) -> dict[str, Any]:
    """What the colours mean: the classes that occur, the largest first; or the range of what has a unit."""
    if PAINTERS[task] is paint_classes and context.classes is not None:
        found, counts = np.unique(prediction, return_counts=True)
        colours = palette(len(context.classes))
        order = np.argsort(-counts, kind="stable")
        return {
            "classes": [
                {
                    "name": context.classes[i],
                    "colour": "#" + bytes(colours[i]).hex(),
                    "percent": round(float(100 * n), 1),
                }
                for i, n in zip(found[order], counts[order] / counts.sum(), strict=True)
            ]
        }
    if prediction.ndim == 2:
        low, middle, high = (float(value) for value in np.quantile(prediction, (0, 0.5, 1)))
        return {"range": {"low": low, "middle": middle, "high": high, "unit": get_task(task).unit}}
    return {}


def _embedded(picture: np.ndarray) -> str:
    """A picture, not larger than the page shows it, as a data address."""
    factor = _LONGEST / max(picture.shape[:2])
    if factor < 1:
        size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode()


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def examples() -> list[np.ndarray]:
    """Some photographs of the validation split, evenly spaced; none where no data is prepared here."""
    if not (paths.PREPARED / "dataset.json").is_file():
        return []
    store = Store(paths.PREPARED / "val", read_info().tasks[:1])
    count = min(_EXAMPLES, len(store))
    return [store[i * len(store) // count].image for i in range(count)]


class _Handler(BaseHTTPRequestHandler):
    """Asks `demo`. A name other than this machine's in `Host` is refused: a foreign page could ask through it."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def __init__(self, demo: Demo, hosts: tuple[str, ...], *arguments: Any):
        self._demo, self._hosts = demo, hosts
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """The page, the networks, an example."""
        path = urlsplit(self.path).path
        if not self._is_asked_as_known():
            return
        if path == "/":
            self._send(_PAGE.read_bytes(), "text/html; charset=utf-8")
        elif path == "/networks":
            self._send_json(self._demo.describe())
        elif path.startswith("/example/") and path.removeprefix("/example/").isdecimal():
            try:
                self._send(self._demo.example(int(path.removeprefix("/example/"))), "image/png")
            except IndexError:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such example")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")

    def do_POST(self) -> None:
        """/predict/<network>: the body is a photograph."""
        if not self._is_asked_as_known():
            return
        name = unquote(urlsplit(self.path).path).removeprefix("/predict/")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True  # what it sends is not read
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a photograph of at most {LARGEST >> 20} MiB is expected"
            )
            return
        photo = self.rfile.read(int(length))
        if name not in {each["name"] for each in self._demo.describe()["networks"]}:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no network {name}")
            return
        try:
            self._send_json(self._demo.predict(name, photo))
        except PipelineError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    def _is_asked_as_known(self) -> bool:
        known = urlsplit(f"//{self.headers.get('Host', '')}").hostname in self._hosts or not self._hosts
        if not known:
            self._refuse(HTTPStatus.FORBIDDEN, f"this page answers as {self._hosts[0]}")
        return known

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send_json({"error": message}, status)

    def _send_json(self, answer: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(answer).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the page shows what went wrong."""


def server(demo: Demo, host: str, port: int) -> ThreadingHTTPServer:
    """A server that answers at `port`, 0 for any free one, once `serve_forever` runs.

    host: an address of this machine; another than 127.0.0.1 lets others use it. Raises ParamsError where it is taken.
    """
    hosts = ("127.0.0.1", "localhost", "::1") if host in ("127.0.0.1", "localhost", "::1") else ()
    try:
        found = ThreadingHTTPServer((host, port), partial(_Handler, demo, hosts))
    except (OSError, OverflowError) as error:
        raise ParamsError(f"{host}:{port} can't be used ({error}): choose another, `make demo PORT=7861`") from None
    found.daemon_threads = True
    return found


def serve(folders: list[Path], host: str, port: int) -> None:
    """Serve the page for the networks of models' folders until Ctrl-C, and print its address.

    Raises DataError as `predictors_of`, ParamsError as `server`.
    """
    with server(Demo(predictors_of(folders), examples()), host, port) as running:
        print(f"drop a photograph at http://{host}:{running.server_port}/ (Ctrl-C stops it)", flush=True)
        running.serve_forever(poll_interval=0.2)
