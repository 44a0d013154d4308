"""stages.predict on videos, on a picture from stdin, and depth in 16 bits."""

from __future__ import annotations

import io
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import stages.predict
from pipeline.core.errors import DataError
from pipeline.core.shutdown import EXIT_CODE
from pipeline.datasets.layout import Layout, read_sample
from pipeline.tools import predict_video
from pipeline.tools.depth_png import write_millimetres
from pipeline.tools.predict import Predictor
from pipeline.tools.predict_video import Video
from pipeline.visual.paint import paint_depth
from stages._entry import run_stage
from tests.support.saved_network import TASKS, put_graph, save_network

ROOT = Path(__file__).parents[2]
FRAMES, SIZE, RATE = 10, (32, 48), 12.5
RESULTS = Path("predictions/clip/net-0")


@pytest.fixture
def network(in_tmp):
    put_graph(in_tmp)
    return save_network(input_size=(32, 64))


def pictures(size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Frames that differ: a bright square moves over a ramp."""
    ramp = np.tile(np.linspace(0, 160, size[1], dtype=np.uint8)[None, :, None], (size[0], 1, 3))
    frames = [ramp.copy() for _ in range(FRAMES)]
    for i, frame in enumerate(frames):
        frame[8:20, 4 * i : 4 * i + 10] = (250, 200, 90)
    return frames


def write_clip(
    name: str, codec: str = "MJPG", size: tuple[int, int] = SIZE, rate: float = RATE, count: int = FRAMES
) -> None:
    writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, size[::-1])
    for frame in pictures(size)[:count]:
        writer.write(frame)
    writer.release()


def read_clip(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames, RGB, and their rate."""
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames, rate


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.predict.main, parser=stages.predict.parser(), argv=arguments, needs_params=False)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


# ---- videos ----------------------------------------------------------------------------------------------------


def test_a_video_becomes_a_video_of_each_task_with_one_scale(network, capsys):
    write_clip("clip.avi")
    code, out, err = run(capsys, "net-0", "clip.avi")
    assert (code, out) == (0, "predictions/clip\n")
    assert err.startswith("clip.avi: 10 frames in ") and err.endswith(" a second\n") and err.count("\n") == 1
    assert sorted(path.name for path in RESULTS.iterdir()) == sorted(f"{task}.mp4" for task in TASKS)
    assert [path.name for path in RESULTS.parent.iterdir()] == ["net-0"], "nothing is left of the writing"
    predictor = Predictor(Path("models/net-0"))
    found = [predictor(frame)["depth"] for frame in read_clip(Path("clip.avi"))[0]]
    middle = float(np.median(found[0].clip(min=0)))
    context = predict_video._one_scale({"depth": predictor.contexts["depth"]}, [{"depth": found[0]}])["depth"]
    assert context.middle == pytest.approx(middle)
    for task in TASKS:
        frames, rate = read_clip(RESULTS / f"{task}.mp4")
        assert (len(frames), rate) == (FRAMES, RATE) and {frame.shape for frame in frames} == {(*SIZE, 3)}
    for depth, frame in zip(found, read_clip(RESULTS / "depth.mp4")[0], strict=True):
        painted = paint_depth(depth, np.ones(SIZE, bool), context)
        assert np.abs(painted.astype(int) - frame).mean() < 12, "up to what the codec loses"


def _cropped(frame: np.ndarray | None) -> np.ndarray | None:
    return np.ascontiguousarray(frame[:33, :49]) if frame is not None and len(frame) == 34 else frame


def test_other_codecs_rates_and_sizes(network, capsys, monkeypatch):
    write_clip("clip.mp4", "mp4v", rate=30000 / 1001)
    write_clip("odd.MKV", "FFV1", (34, 50), rate=90.1234)
    read = Video._read  # OpenCV writes no odd sizes, so the last row and column go as it reads
    monkeypatch.setattr(Video, "_read", lambda self: _cropped(read(self)))
    code, out, err = run(capsys, "net-0", "clip.mp4", "odd.MKV", "--tta", "flip")
    assert (code, out) == (0, "predictions/clip\npredictions/odd\n")
    assert "odd.MKV is 33x49, and MP4 takes even sizes: 32x48 of it are written" in err
    assert read_clip(RESULTS / "edge.mp4")[1] == pytest.approx(29.97, abs=1e-3)
    frames, rate = read_clip(Path("predictions/odd/net-0/edge.mp4"))
    assert frames[0].shape == (32, 48, 3) and rate == pytest.approx(90.1234, abs=0.01)


def test_what_is_no_video_is_named_and_does_not_stop_the_others(network, in_tmp, capsys):
    write_clip("clip.mp4", "mp4v")
    write_clip("none.avi", count=0)
    (in_tmp / "cut.mp4").write_bytes((in_tmp / "clip.mp4").read_bytes()[:900])
    (in_tmp / "text.webm").write_text("no video")
    code, out, err = run(capsys, "net-0", "cut.mp4", "none.avi", "text.webm", "clip.mp4")
    assert (code, out) == (2, "predictions/clip\n")
    for name in ("cut.mp4", "text.webm"):
        assert f"{name} can't be read as a video: it is damaged, empty, or of a codec unknown to OpenCV" in err
    assert "none.avi " in err and "3 of 4 photographs could not be read and were left out" in err
    assert not Path("predictions/cut").exists()


def test_a_video_that_is_cut_off_is_said_to_be(network, in_tmp, capsys):
    write_clip("clip.avi")
    whole = (in_tmp / "clip.avi").read_bytes()
    (in_tmp / "clip.avi").write_bytes(whole[: (whole.index(b"movi") + whole.rindex(b"idx1")) // 2])
    code, _, err = run(capsys, "net-0", "clip.avi")
    found = len(read_clip(RESULTS / "depth.mp4")[0])
    assert code == 0 and 0 < found < FRAMES
    assert f"clip.avi says that it has {FRAMES} frames; {found} could be read: it may be cut off" in err


def test_a_video_without_a_rate_is_refused(in_tmp, monkeypatch):
    write_clip("clip.avi")
    capture = cv2.VideoCapture("clip.avi")

    class NoRate:
        def __getattr__(self, name):
            return (lambda prop: 0.0) if name == "get" else getattr(capture, name)

    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: NoRate())
    with pytest.raises(DataError, match=r"clip.avi has a rate of 0.0 frames a second, expected more than 0"):
        Video(Path("clip.avi"))


def test_an_interrupted_run_leaves_no_half_video(network, capsys, monkeypatch):
    write_clip("clip.avi")
    assert run(capsys, "net-0", "clip.avi")[0] == 0
    before = {path.name: path.read_bytes() for path in RESULTS.iterdir()}
    seen = []

    def interrupted(*_args):
        seen.append(sorted(path.name for path in RESULTS.parent.glob(".videos.*.partial/net-0/*")))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return original(*_args)

    original = Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", interrupted)
    assert run(capsys, "net-0", "clip.avi")[0] == EXIT_CODE
    assert seen[-1] == sorted(f"{task}.mp4" for task in TASKS), "they were being written, elsewhere"
    assert {path.name: path.read_bytes() for path in RESULTS.iterdir()} == before
    assert [path.name for path in RESULTS.parent.iterdir()] == ["net-0"]


def test_a_full_disk_is_noticed(network, capsys):
    """OpenCV's writer returns nothing; a limit on the size of files fails its writes as a full disk does."""
    write_clip("clip.avi")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        code, out, err = run(capsys, "net-0", "clip.avi")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (2, "")
    assert "predictions/clip can't be written: " in err and f"of {FRAMES} frames once it is written" in err
    assert not list(Path("predictions/clip").iterdir())


# ---- stdin -----------------------------------------------------------------------------------------------------


def stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_picture_from_stdin(network, in_tmp, monkeypatch, capsys):
    Image.fromarray(pictures()[0]).save("stdin.png")
    stdin(monkeypatch, Path("stdin.png").read_bytes())
    code, out, err = run(capsys, "net-0", "-")
    assert (code, out, err) == (0, "predictions/stdin\n", "")
    assert run(capsys, "net-0", "stdin.png", "--out", "other")[0] == 0
    for task in TASKS:
        for ending in ("npy", "png"):
            name = f"stdin/net-0/{task}.{ending}"
            assert Path("predictions", name).read_bytes() == Path("other", name).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "stdin is empty, where - stands"), (b"text", "stdin is not an image, or a damaged")]
)
def test_stdin_without_a_picture(network, monkeypatch, capsys, content, message):
    stdin(monkeypatch, content)
    code, out, err = run(capsys, "net-0", "-")
    assert (code, out) == (2, "") and message in err and "1 of 1 photographs could not be read" in err


# ---- depth in 16 bits ------------------------------------------------------------------------------------------


def test_depth_in_millimetres_is_read_as_a_label(network, in_tmp, capsys):
    """The file that predict writes, in the place of a label of a person's own data."""
    Path("images").mkdir()
    Image.fromarray(pictures()[0]).save("images/a.png")
    assert run(capsys, "net-0", "images/a.png")[0] == 0
    written = Path("predictions/a/net-0/depth.16bit.png")
    assert Image.open(written).text == {"depth_scale": "1000", "unit": "mm"}
    Path("depth").mkdir()
    metres = np.linspace(0.5, 9.5, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    assert not write_millimetres(Path("depth/a.png"), metres)
    label = read_sample(Layout(classes={}, depth_scale=1000), Path(), "a", ("depth",)).labels["depth"]
    assert label.valid.all()
    np.testing.assert_allclose(label.value, metres, rtol=0, atol=0.00051)
    raw = np.load("predictions/a/net-0/depth.npy")
    np.testing.assert_array_equal(cv2.imread(str(written), cv2.IMREAD_UNCHANGED), np.rint(raw.clip(0) * 1e3))


def test_depth_beyond_16_bits_is_clipped_with_one_warning(network, capsys, monkeypatch):
    for name in ("1.png", "2.png"):
        Image.fromarray(pictures()[0]).save(name)
    original = Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", lambda *a: original(*a) | {"depth": np.full(SIZE, 70.0, np.float32)})
    code, _, err = run(capsys, "net-0", "1.png", "2.png")
    assert code == 0 and err.count("65.535 m") == 1 and err.startswith("2 of 2 predictions, the first of 1.png, lie ")
    assert (cv2.imread("predictions/2/net-0/depth.16bit.png", cv2.IMREAD_UNCHANGED) == 65535).all()
    assert not write_millimetres(Path("edge.png"), np.array([[65.5354, 0, -1, 0.0006]]))
    assert cv2.imread("edge.png", cv2.IMREAD_UNCHANGED).tolist() == [[65535, 0, 0, 1]]


# ---- what a terminal shows -------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_terminal_shows_progress_and_nothing_of_ffmpeg(network, in_tmp):
    """In a terminal, as a person runs it: pictures and frames are counted, with their rate and the time left."""
    Image.fromarray(pictures()[0]).save("a.png")
    write_clip("clip.mp4", "mp4v")
    (in_tmp / "cut.mp4").write_bytes((in_tmp / "clip.mp4").read_bytes()[:900])
    command = [sys.executable, "-m", "stages.predict", "net-0", "a.png", "clip.mp4", "cut.mp4"]
    sized = ["sh", "-c", f"stty cols 100 rows 30; exec {shlex.join(command)}"]  # it has no width by itself: no bar fits
    code = f"import pty, sys; sys.exit(pty.spawn({sized!r}) >> 8)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    # ten frames may take less than the tenth of a second between two looks at the bar
    assert re.search(r"clip\.mp4: +\d+%.*/10 \[.*frame/s\]", done.stdout) and "2/3 [" in done.stdout
    assert "cut.mp4 can't be read as a video" in done.stdout
    assert "moov atom" not in done.stdout and "VIDEOIO" not in done.stdout
    assert "frames in" not in done.stdout
