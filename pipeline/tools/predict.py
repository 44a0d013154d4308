"""A trained network on photographs of one's own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.core.console import warn
from pipeline.core.errors import DataError
from pipeline.datasets.files import read_photo_as_seen
from pipeline.tasks.spec import TaskContext
from pipeline.tools.attention_page import Place, TaskAttention
from pipeline.tools.cross_attention import attention_at
from pipeline.tools.export.config import CONFIG
from pipeline.tools.export.model import open_model
from pipeline.tools.export.trained import open_trained
from pipeline.tools.saved_model import read_saved_model
from pipeline.visual.figures import save
from pipeline.visual.overview import overview
from pipeline.visual.paint import paint, write_png

_REGISTERED = "models:/"  # how MLflow names what is in its registry
_SHOWN = 3  # photographs that a message names
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # of pictures in a folder


class Predictor:
    """A trained network, of a folder in models or an exported one: a photograph in, one map a task out.

    Needs nothing but the folder. Raises DataError as `open_model`, `read_saved_model` and `load_weights` do.
    """

    def __init__(self, folder: Path):
        if (folder / CONFIG).is_file():
            self.model = open_model(folder)
            return
        saved = read_saved_model(folder)
        recipe = saved.run.training
        device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
        self.model = open_trained(saved, device)

    def __call__(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """(H, W, 3) uint8 RGB -> by task (H, W), or (H, W, 3) for normals: see `Model`."""
        return self.model(photo)

    def attention(self, photo: np.ndarray, place: Place) -> dict[str, TaskAttention]:
        """What the pixel at `place` gathered by cross attention, by task; raises as `attention_at`."""
        return attention_at(self.model.network, self.model.prepare(photo), place)

    def paint(self, predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the network said, to look at: (H, W, 3) uint8 RGB by task."""
        contexts = self.contexts
        return {
            task: paint(task, value, np.ones(value.shape[:2], bool), contexts[task])
            for task, value in predictions.items()
        }

    @property
    def contexts(self) -> dict[str, TaskContext]:
        """What it takes to paint each task."""
        classes, edge_max_dist = self.model.classes, self.model.config.edge_max_dist
        return {
            task: TaskContext(tuple(classes[task]) if task in classes else None, edge_max_dist)
            for task in self.model.tasks
        }


def places(photos: Iterable[Path], out: Path) -> dict[Path, Path]:
    """{photograph: the folder below `out` for what is predicted of it}; nothing is written yet.

    photos: files, and folders, which stand for the pictures right in them. A photograph's folder has its name without
    the ending, with as many of the folders above it as tell it from others of that name; where two differ in the ending
    alone, with that. Raises DataError for photographs that are missing, for a folder without any, and for an `out`
    where files are in the way, its own ones for example.
    """
    photos = list({os.path.abspath(photo): photo for each in photos for photo in _pictures(each)}.values())
    if missing := [photo for photo in photos if not photo.is_file()]:
        named = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(f"{len(missing)} of {len(photos)} photographs are no files: {named}; nothing was done")
    whole = Counter(_key(photo) for photo in photos)
    stems = Counter(_key(photo.with_suffix("")) for photo in photos)
    named_as = {
        photo: photo if stems[key] > 1 or (whole[key] and photo.suffix) else photo.with_suffix("")
        for photo in photos
        for key in [_key(photo.with_suffix(""))]
    }
    found = {photo: out / _tail(name, list(named_as.values())) for photo, name in named_as.items()}
    for photo, folder in found.items():
        if in_the_way := next((each for each in (folder, *folder.parents) if each.is_file()), None):
            raise DataError(
                f"--out {out}: {in_the_way} is a file where the folder of results of {photo} should be; give a folder "
                "of its own"
            )
    return found


def _key(path: Path) -> str:
    """Of a name; case does not tell names apart on every disk."""
    return os.path.abspath(path).casefold()


def _pictures(path: Path) -> list[Path]:
    """The path itself, or the pictures right in a folder, by name."""
    if not path.is_dir():
        return [path]
    found = sorted(
        each for each in path.iterdir() if each.suffix.lower() in _ENDINGS and each.name[0] != "." and each.is_file()
    )
    if not found:
        raise DataError(f"{path} is a folder without pictures ({', '.join(_ENDINGS)}); nothing was done")
    return found


def _tail(photo: Path, photos: list[Path]) -> Path:
    """The last parts of a path that no other has; never `..`. Case does not tell names apart on every disk."""

    def last(path: Path, count: int) -> tuple[str, ...]:
        return tuple(part.casefold() for part in _parts(path)[-count:])

    parts = _parts(photo)
    for count in range(1, len(parts)):
        if sum(last(photo, count) == last(other, count) for other in photos) == 1:
            return Path(*parts[-count:])
    return Path(*parts)


def _parts(path: Path) -> tuple[str, ...]:
    return Path(os.path.abspath(path)).parts[1:]


def predictors_of(folders: Iterable[Path]) -> dict[str, Predictor]:
    """The networks of models' folders, by the folder's name, under which their results lie.

    One that begins with models:/ is asked of MLflow's registry, and has the rest as its name. Raises DataError for two
    of one name, and for two that call a task's classes differently: one picture can't show both.
    """
    found: dict[str, Predictor] = {}
    named: dict[str, tuple[str, tuple[str, ...] | None]] = {}
    for folder in folders:
        registered = str(folder).startswith(_REGISTERED)
        name = str(folder).removeprefix(_REGISTERED) if registered else os.path.basename(os.path.abspath(folder))
        name = name.replace("/", "-")
        if name in found:
            raise DataError(f"two of the networks lie in folders called {name}, and would share their results")
        found[name] = _registered(str(folder)) if registered else Predictor(folder)
        for task, context in found[name].contexts.items():
            other, classes = named.setdefault(task, (name, context.classes))
            if classes != context.classes:
                raise DataError(f"{other} and {name} have other classes of {task}: predict with one after the other")
    return found


def _registered(uri: str) -> Predictor:
    """The network that `stages.export --to mlflow` registered under models:/<name>@<alias>, or /<version>."""
    from pipeline.tracking.models import fetch_network  # imports mlflow

    with TemporaryDirectory() as folder:
        return Predictor(fetch_network(uri, Path(folder)))


def predict_photos(predictors: Mapping[str, Predictor], targets: Mapping[Path, Path]) -> Iterator[Path]:
    """Write predictions of each photograph into its folder; yields the folders as they are written.

    For each network, by its name in `predictors`, a folder with <task>.npy and <task>.png; and overview.png of all. A
    photograph that can't be read is reported on stderr and left out; DataError says so after the last.
    """
    broken = []
    for photo, folder in targets.items():
        try:
            image = read_photo_as_seen(photo)
        except DataError as error:
            warn(str(error))
            broken.append(photo)
            continue
        found = {name: predictor(image) for name, predictor in predictors.items()}
        try:
            for name, predictions in found.items():
                _write(folder / name, predictions, predictors[name].paint(predictions))
            contexts = {task: context for each in predictors.values() for task, context in each.contexts.items()}
            save(overview(image, found, contexts), folder / "overview.png")
        except OSError as error:
            raise DataError(f"{folder} can't be written: {error}") from None
        yield folder
    if broken:
        raise DataError(f"{len(broken)} of {len(targets)} photographs could not be read and were left out")


def _write(folder: Path, predictions: Mapping[str, np.ndarray], pictures: Mapping[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for task, picture in pictures.items():
        with paths.atomic(folder / f"{task}.npy", "wb") as file:
            np.save(file, predictions[task])
        write_png(folder / f"{task}.png", picture)
