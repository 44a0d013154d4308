"""stages.attention: pages and numbers of what a pixel of a photograph gathered."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

import stages.attention
from pipeline.compute.device import NORMALIZATIONS
from pipeline.evaluation.cross_attention import attention_at
from pipeline.loading.loader import image_tensor, resize_image
from stages._entry import run_stage
from tests.support.narrow_hrnet import NARROW
from tests.support.saved_run import rooms_info, save_run

TASKS = ["semseg", "depth"]
PARAMS = {
    "data": {"dataset": "rooms", "tasks": TASKS},
    "training": {
        "backbone": NARROW, "input_size": [32, 64], "batch_size": 4, "epochs": 1, "lr": 1.0e-3,
        "normalization": "imagenet",
    },
    "seeds": [0],
    "runs": {name: {"architecture": name, "tasks": TASKS} for name in ("sequential_attention", "multi_task")},
}  # fmt: skip
INFO = rooms_info(TASKS)
SIZE = (37, 50)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def project(in_tmp, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    Image.fromarray(PHOTO).save("photo.png")
    return in_tmp


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.attention.main, parser=stages.attention.parser(), argv=arguments, needs_params=False)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_each_point_has_a_page_and_its_numbers(project, capsys):
    network = save_run(project, "sequential_attention", PARAMS, INFO).eval()
    code, out, _ = run(capsys, "sequential_attention-0", "photo.png", "--at", "10,30", "--at", "49,0")
    folder = "attention/photo/sequential_attention-0"
    pages = [f"{folder}/{task}-{point}.png" for point in ("10-30", "49-0") for task in TASKS]
    assert code == 0 and out.split() == pages
    assert all(min(cv2.imread(page).shape[:2]) > 300 for page in pages)
    image = NORMALIZATIONS["imagenet"](image_tensor(resize_image(PHOTO, (32, 64)))[None].float())
    expected = attention_at(network, image, (30.5 / SIZE[0], 10.5 / SIZE[1]))["semseg"]
    with np.load(f"{folder}/semseg-10-30.npz") as found:
        pairs = [f"ctam/{k}/depth" for k in (1, 2, 3, 4)]
        pairs += [f"csam/{k}/{j}" for k, j in ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))]
        assert sorted(found) == sorted([*pairs, *(f"{pair}/change" for pair in pairs)])
        np.testing.assert_allclose(found["csam/1/3"], expected.scales[0][2].weights, rtol=1e-5)
        assert found["ctam/2/depth/change"] == pytest.approx(expected.tasks[1]["depth"].change, rel=1e-4, abs=1e-6)
        assert all(found[pair].sum() == pytest.approx(1, abs=1e-5) for pair in pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["multi_task-0", "photo.png"], "multi_task-0: MultiTask has no cross attention to show"),
        (
            ["multi_task-0", "photo.png", "--at", "50,3"],
            "photo.png has no pixel 50,3: it is 50 pixels wide and",
        ),
        (["multi_task-0", "photo.png", "--at=-1,3"], "'-1,3': a pixel is its column and row, such as 320,240"),
        (["multi_task-0", "photo.png", "--at", "²,3"], "'²,3': a pixel is its column and row, such as 320,240"),
        (["multi_task-0", "photo.png", "--at", "middle"], "'middle': a pixel is its column and row, such as 320,240"),
    ],
)
def test_mistakes_have_one_message(project, capsys, arguments, message):
    save_run(project, "multi_task", PARAMS, INFO)
    code, _, error = run(capsys, *arguments)
    assert code == 2 and message in error and "Traceback" not in error
    assert not (project / "attention").exists()
