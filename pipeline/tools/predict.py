"""A trained network on photographs and videos of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.core.console import warn
from pipeline.core.errors import DataError
from pipeline.evaluation.attention import Place, TaskAttention
from pipeline.evaluation.cross_attention import attention_at
from pipeline.tasks import get_task
from pipeline.tasks.spec import TaskContext
from pipeline.tools.depth_png import MOST_METRES, write_millimetres
from pipeline.tools.export.config import CONFIG
from pipeline.tools.export.model import Augmentation, open_model
from pipeline.tools.export.trained import open_trained
from pipeline.tools.predict_inputs import is_video, read_picture
from pipeline.tools.predict_video import Video, write_videos
from pipeline.tools.saved_model import read_saved_model
from pipeline.visual.figures import save
from pipeline.visual.overview import overview
from pipeline.visual.paint import paint, write_png

_REGISTERED = "models:/"  # how MLflow names what is in its registry


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

    def __call__(self, photo: np.ndarray, tta: Augmentation | None = None) -> dict[str, np.ndarray]:
        """(H, W, 3) uint8 RGB -> by task (H, W), or (H, W, 3) for normals: see `Model`."""
        return self.model(photo, tta)

    def attention(self, photo: np.ndarray, place: Place) -> dict[str, TaskAttention]:
        """What the pixel at `place` gathered by cross attention, by task; raises as `attention_at`."""
        return attention_at(self.model.network, self.model.prepare(photo), place)

    def paint(
        self, predictions: Mapping[str, np.ndarray], contexts: Mapping[str, TaskContext] | None = None
    ) -> dict[str, np.ndarray]:
        """What the network said, to look at: (H, W, 3) uint8 RGB by task. contexts: default, the network's own."""
        contexts = self.contexts if contexts is None else contexts
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


def predict_photos(
    predictors: Mapping[str, Predictor], targets: Mapping[Path, Path], tta: Augmentation | None = None
) -> Iterator[Path]:
    """Write predictions of each photograph or video into its folder; yields the folders as they are written.

    For each network, by its name in `predictors`, a folder with <task>.npy and <task>.png, and <task>.16bit.png of a
    task in metres; and overview.png of all. For a video as `write_videos` says. What can't be read is reported on
    stderr and left out; DataError says so after the last. tta: see `Model`.
    """
    broken, clipped = [], []
    contexts = {task: context for each in predictors.values() for task, context in each.contexts.items()}
    with tqdm(total=len(targets), unit="picture", disable=None if len(targets) > 1 else True) as progress:
        for source, folder in targets.items():
            try:
                content = Video(source) if is_video(source) else read_picture(source)
            except DataError as error:
                with tqdm.external_write_mode():
                    warn(str(error))
                broken.append(source)
                progress.update()
                continue
            try:
                if isinstance(content, Video):
                    write_videos(predictors, content, folder, contexts, tta)
                elif _write_photo(predictors, content, folder, contexts, tta):
                    clipped.append(source)
            except OSError as error:
                raise DataError(f"{folder} can't be written: {error}") from None
            progress.update()
            progress.clear()  # whoever prints the folder finds an empty line
            yield folder
            progress.refresh()
    if clipped:
        warn(
            f"{len(clipped)} of {len(targets)} predictions, the first of {clipped[0]}, lie beyond {MOST_METRES} m, the "
            "most that 16 bits hold in millimetres: the .16bit.png is clipped there, the .npy is not"
        )
    if broken:
        raise DataError(f"{len(broken)} of {len(targets)} photographs could not be read and were left out")


def _write_photo(
    predictors: Mapping[str, Predictor],
    photo: np.ndarray,
    folder: Path,
    contexts: Mapping[str, TaskContext],
    tta: Augmentation | None,
) -> bool:
    """Whether a depth was too large for its picture of 16 bits. Raises OSError."""
    found = {name: predictor(photo, tta) for name, predictor in predictors.items()}
    clipped = [
        _write(folder / name, predictions, predictors[name].paint(predictions)) for name, predictions in found.items()
    ]
    save(overview(photo, found, contexts), folder / "overview.png")
    return any(clipped)


def _write(folder: Path, predictions: Mapping[str, np.ndarray], pictures: Mapping[str, np.ndarray]) -> bool:
    """As `_write_photo`, of one network."""
    folder.mkdir(parents=True, exist_ok=True)
    clipped = False
    for task, picture in pictures.items():
        with paths.atomic(folder / f"{task}.npy", "wb") as file:
            np.save(file, predictions[task])
        write_png(folder / f"{task}.png", picture)
        if get_task(task).unit == "m":
            clipped |= write_millimetres(folder / f"{task}.16bit.png", predictions[task])
    return clipped
