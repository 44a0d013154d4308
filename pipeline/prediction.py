"""A trained network on photographs of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from pipeline import paths
from pipeline.checkpoint import load_weights
from pipeline.datasets.files import read_photo_as_seen
from pipeline.datasets.loading import image_tensor, resize_image
from pipeline.datasets.store import read_info
from pipeline.device import choose_device
from pipeline.evaluation import as_map, predict_batch, task_context
from pipeline.network import build_network
from pipeline.params import Params
from pipeline.tasks import get_task


class Predictor:
    """The trained network of run `name` with `seed`: a photograph in, one map a task out.

    Raises DataError without its weights or without data/prepared/dataset.json, which says what its channels mean.
    """

    def __init__(self, params: Params, name: str, seed: int):
        self.run, self.info = params.run(name), read_info()
        recipe = self.run.training
        self._device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic, recipe.cpu_threads)
        self._network = self._device.network(build_network(self.run, self.info)).eval()
        load_weights(self._network, paths.weights_file(name, seed))

    def __call__(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """(H, W, 3) uint8 RGB -> by task (H, W), or (H, W, 3) for normals, at the photograph's size.

        Class indices, probabilities (edge, sal), metres (depth), unit vectors (normals: x right, y up, z towards the
        camera). The photograph is resized to the network's input size first, aspect not kept, as in training.
        """
        image = image_tensor(resize_image(photo, self.run.training.input_size))[None]
        sizes = {task: [photo.shape[:2]] for task in self.run.tasks}
        predictions = predict_batch(self._network, image, sizes, self.run.training, self._device)
        return {task: as_map(each) for task, (each,) in predictions.items()}

    def paint(self, predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the network said, to look at: (H, W, 3) uint8 RGB by task."""
        return {
            task: get_task(task).paint(value, np.ones(value.shape[:2], bool), task_context(self.info, task))
            for task, value in predictions.items()
        }


def predict_photos(predictor: Predictor, photos: Iterable[Path], out: Path) -> Iterator[Path]:
    """Write <out>/<photograph's name>/<task>.npy and <task>.png of each; yields the folders as they are written."""
    for photo in photos:
        predictions = predictor(read_photo_as_seen(photo))
        folder = out / photo.name
        folder.mkdir(parents=True, exist_ok=True)
        for task, picture in predictor.paint(predictions).items():
            np.save(folder / f"{task}.npy", predictions[task])
            cv2.imwrite(str(folder / f"{task}.png"), picture[..., ::-1])
        yield folder
