"""Pictures of a training's predictions wait in its folder, and those of the attempts before are sent again."""

import errno

import cv2
import numpy as np

from pipeline.train import pictures
from pipeline.train.pictures import Pictures


def test_each_is_kept_and_sent_and_after_a_kill_sent_again(tmp_path):
    (tmp_path / "checkpoint.pt").touch()
    sent, again = [], []
    first = Pictures(tmp_path, lambda *picture: sent.append(picture))
    wide = np.zeros((100, 4000, 3), np.uint8)
    wide[..., 0] = 200
    for step in (0, 50):
        first.add("human_parts", wide, step)
    names = [tmp_path / f"panels-human_parts-{step}.png" for step in (0, 50)]
    assert sent == [(names[0], "human_parts", 0), (names[1], "human_parts", 50)]
    read = cv2.imread(str(sent[1][0]))
    assert read.shape == (48, 1920, 3) and read[0, 0].tolist() == [0, 0, 200], "small enough to keep many"
    Pictures(tmp_path, lambda *picture: again.append(picture))
    assert sorted(again) == sorted(sent)


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, capsys):
    def full(path, picture):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pictures, "write_png", full)
    sent = []
    Pictures(tmp_path, lambda *picture: sent.append(picture)).add("sal", np.zeros((4, 4, 3), np.uint8), 7)
    assert not sent and "panels-sal-7.png can't be written (No space left on device)" in capsys.readouterr().err
