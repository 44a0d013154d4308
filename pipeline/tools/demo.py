"""A page on this machine where one drops a photograph and sees what trained networks make of it. Nothing leaves it.

The standard library serves it: the page, demo.html, and three addresses that it asks for JSON and pictures.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from pipeline.compute.device import use_cpu_threads
from pipeline.core import paths
from pipeline.core.errors import DataError, ParamsError, PipelineError
from pipeline.data.store import Store, read_info
from pipeline.datasets.files import read_photo_as_seen, shown
from pipeline.tasks import get_task
from pipeline.tasks.spec import TaskContext
from pipeline.tools.export.config import CONFIG
from pipeline.tools.predict import Predictor
from pipeline.tools.saved_model import read_saved_model
from pipeline.visual.paint import MEASURED, PAINTERS, fit, paint_classes, palette

LARGEST = 64 * 2**20  # bytes of a photograph
_LONGEST = 1024  # pixels of the longer side of a picture on the page
_READ = 4 * LARGEST  # bytes that are read before a larger photograph is refused
_EXAMPLES = 6
_KEPT = 4  # networks in memory
_PAGE = Path(__file__).with_name("demo.html")


class Demo:
    """What the page can ask for.

    Networks are read when they are first asked for, and compute in one thread, one after the other: torch's number of
    threads is a setting of the thread that computes.

    folders: of the models, by the name that the page shows.
    """

    def __init__(self, folders: Mapping[str, Path], examples: list[np.ndarray]):
        self._folders, self._examples = folders, examples
        self._read = lru_cache(_KEPT)(Predictor)
        self._computing = ThreadPoolExecutor(1, "computing")

    def describe(self) -> dict[str, Any]:
        """The networks, how many example pictures there are, and the most bytes of a photograph."""
        return {"networks": list(self._folders), "examples": len(self._examples), "largest": LARGEST}

    def example(self, index: int) -> bytes:
        """PNG of an example. Raises IndexError."""
        return _png(self._examples[index])

    def predict(self, name: str, photo: bytes) -> dict[str, Any]:
        """Seconds, size, and for each task its title, picture, and key.

        Raises DataError for what is no photograph, and for a network that can't be read; KeyError for one unknown.
        """
        folder = self._folders[name]
        with tempfile.NamedTemporaryFile(prefix="photograph-") as file:
            file.write(photo)
            file.flush()
            try:
                image = read_photo_as_seen(Path(file.name))
            except DataError as error:
                raise DataError(str(error).replace(shown(Path(file.name)), "this file")) from None
        predictor, predictions, seconds = self._computing.submit(self._predict, folder, image).result()
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

    def _predict(self, folder: Path, image: np.ndarray) -> tuple[Predictor, dict[str, np.ndarray], float]:
        predictor = self._read(folder)
        use_cpu_threads(predictor.model.device.cpu_threads)  # another network's may have been in force
        start = time.perf_counter()
        predictions = predictor(image)
        return predictor, predictions, time.perf_counter() - start


def _key(task: str, prediction: np.ndarray, context: TaskContext) -> dict[str, Any]:
    """What the colours mean: the classes that occur, the largest first; or the range of the numbers."""
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
        return {
            "range": {
                "low": low,
                "median": middle,
                "high": high,
                "unit": get_task(task).unit if task in MEASURED else "",
            }
        }
    return {}


def _embedded(picture: np.ndarray) -> str:
    """A picture, not larger than the page shows it, as a data address."""
    return "data:image/png;base64," + base64.b64encode(_png(fit(picture, _LONGEST))).decode()


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
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else LARGEST + 1
        photo = self.rfile.read(min(size, _READ))  # before any answer: a browser first sends all that it has
        self.close_connection = size > _READ
        if not self._is_asked_as_known():
            return
        if size > LARGEST:
            message = f"a photograph of at most {LARGEST >> 20} MiB is expected"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
            return
        name = unquote(urlsplit(self.path).path).removeprefix("/predict/")
        try:
            self._send_json(self._demo.predict(name, photo))
        except KeyError:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no network {name}")
        except PipelineError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (
            MemoryError,
            RuntimeError,
        ) as error:  # torch's, of a GPU without memory: the page says so, and serves on
            message = str(error).splitlines()[0] if str(error) else "no memory"
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, message)

    def _is_asked_as_known(self) -> bool:
        try:
            known = not self._hosts or urlsplit(f"//{self.headers.get('Host', '')}").hostname in self._hosts
        except ValueError:  # no name at all
            known = False
        if not known:
            self.close_connection = True
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has left: no error of ours. Everything else is, and keeps its traceback."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def server(demo: Demo, host: str, port: int) -> ThreadingHTTPServer:
    """A server that answers at `port`, 0 for any free one, once `serve_forever` runs.

    host: an IPv4 address or name of this machine; another than 127.0.0.1 lets others use it. Raises ParamsError where
    it or the port can't be used.
    """
    hosts = ("127.0.0.1", "localhost") if host in ("127.0.0.1", "localhost") else ()
    try:
        return _Server((host, port), partial(_Handler, demo, hosts))
    except (OSError, OverflowError) as error:
        raise ParamsError(f"{host}:{port} can't be used ({error}): give another --port, or another --host") from None


def serve(folders: Iterable[Path], host: str, port: int) -> None:
    """Serve the page for the networks of models' folders until Ctrl-C, and print its address.

    Raises DataError for a folder that is no model's, or of which there are two of one name; ParamsError as `server`.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        if not (folder / CONFIG).is_file():
            read_saved_model(folder)  # refused here rather than on the page
        name = os.path.basename(os.path.abspath(folder))
        if name in named:
            raise DataError(f"two of the networks lie in folders called {name}: the page could not tell them apart")
        named[name] = folder
    with server(Demo(named, examples()), host, port) as running:
        shown_as = socket.gethostname() if host in ("0.0.0.0", "") else host
        print(f"drop a photograph at http://{shown_as}:{running.server_port}/ (Ctrl-C stops it)", flush=True)
        running.serve_forever(poll_interval=0.2)
