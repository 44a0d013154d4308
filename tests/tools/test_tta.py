"""`Model(image, tta="flip")` against the same by hand, for every task."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compute.device import choose_device
from pipeline.core.errors import ParamsError
from pipeline.networks.outputs import Outputs
from pipeline.tasks import TASKS
from pipeline.tools.export.model import Model

SIZE = (6, 10)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
CLASSES = 4


class OneSided(nn.Module):
    """A network of one convolution that is not symmetric, so that a mirror image is another one to it."""

    def __init__(self, task: str, channels: int):
        super().__init__()
        torch.manual_seed(0)
        self.task, self.conv = task, nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> Outputs:
        return Outputs({self.task: self.conv(image)})


def model_of(task: str) -> Model:
    channels = TASKS[task].channels or CLASSES
    config = SimpleNamespace(tasks={task: channels}, classes={}, input_size=list(SIZE), normalization="imagenet")
    return Model(OneSided(task, channels), config, choose_device("float32", False))


@pytest.mark.parametrize("task", TASKS)
def test_flip_is_the_mean_of_both_raw_predictions(task):
    model = model_of(task)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def raw(image: np.ndarray) -> np.ndarray:
        chw = torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
        with torch.no_grad():
            return model.network(chw).final[task][0].numpy()

    mirrored = raw(IMAGE[:, ::-1])[:, :, ::-1].copy()
    if task == "normals":
        mirrored[0] = -mirrored[0]  # what looked right in the mirror looks left
    mean_raw = (raw(IMAGE) + mirrored) / 2
    expected = {
        "semseg": lambda: mean_raw.argmax(0), "human_parts": lambda: mean_raw.argmax(0),
        "depth": lambda: mean_raw[0], "disparity": lambda: mean_raw[0],
        "normals": lambda: (mean_raw / np.linalg.norm(mean_raw, axis=0)).transpose(1, 2, 0),
    }.get(task, lambda: 1 / (1 + np.exp(-mean_raw[-1])))()  # fmt: skip
    found, plain = model(IMAGE, tta="flip")[task], model(IMAGE)[task]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert not np.allclose(found, plain, atol=1e-3), "it is another prediction than that of the image alone"


@pytest.mark.parametrize("task", TASKS)
def test_the_mirror_image_gets_the_mirrored_prediction(task):
    model = model_of(task)
    found = model(IMAGE, tta="flip")[task]
    mirrored = model(np.ascontiguousarray(IMAGE[:, ::-1]), tta="flip")[task][:, ::-1]
    expected = mirrored * np.array([-1, 1, 1]) if task == "normals" else mirrored
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_another_name_is_refused():
    with pytest.raises(ParamsError, match="tta = 'rotate' is unknown; allowed: None, flip"):
        model_of("depth")(IMAGE, tta="rotate")
