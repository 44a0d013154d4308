"""Whatever is wrong with a dataset, `prepare` ends with one clear message and exit code 2, and leaves nothing behind.

What can be wrong with an archive is in test_bad_archive.py.
"""

import re
import shutil

import numpy as np
import pytest
import yaml

import stages.download
import stages.prepare
from pipeline.datasets import preparation
from stages._entry import run_stage
from tests.support.nyud_archive import TOP, image, npy, nyud_files, write_tgz

SIZE = (32, 64)
WALLS = np.ones(SIZE, np.uint8)
UP = np.tile(np.float32([0, 1, 0]), (*SIZE, 1))


def without(name: str):
    return lambda files: {key: value for key, value in files.items() if key != f"{TOP}/{name}"}


def cut(name: str, share: float = 0.5):
    return lambda files: files | {f"{TOP}/{name}": files[f"{TOP}/{name}"][: int(len(files[f"{TOP}/{name}"]) * share)]}


def put(name: str, content: bytes):
    return lambda files: files | {f"{TOP}/{name}": content}


# What was done to the dataset, and what the message must say: the file or id, and what is wrong with it.
KINDS = {
    "missing image": (without("images/0001.jpg"), r"0001: images/0001\.jpg is missing"),
    "missing label": (without("depth/0001.npy"), r"0001: depth/0001\.npy is missing"),
    "missing split file": (without("gt_sets/val.txt"), r"another archive: no gt_sets/val\.txt inside"),
    "empty val": (put("gt_sets/val.txt", b"\n"), r"gt_sets/val\.txt is empty"),
    "duplicate ids": (put("gt_sets/train.txt", b"0000\n0001\n0000\n"), "names 1 ids twice, the first: 0000"),
    "an id in both splits": (put("gt_sets/val.txt", b"1000\n0001\n"), "1 ids are in both train and val"),
    "split file that is no text": (put("gt_sets/train.txt", b"\xff\xfe\x00\x01"), r"gt_sets/train\.txt can't be read"),
    "id that leaves the folder": (put("gt_sets/train.txt", b"0000\n../0001\n"), r"\.\./0001"),
    "truncated photograph": (cut("images/0000.jpg"), r"0000: images/0000\.jpg .*damaged"),
    "photograph that is none": (put("images/0000.jpg", b"<html>no</html>"), r"images/0000\.jpg is not an image"),
    "truncated class map": (cut("segmentation/0002.png"), r"segmentation/0002\.png .*damaged"),
    "truncated array": (cut("normals/0002.npy"), r"normals/0002\.npy can't be read"),
    "pickled array": (put("depth/0000.npy", npy(np.array([{"a": 1}], object))), r"depth/0000\.npy can't be read"),
    "class 200": (put("segmentation/0001.png", image(".png", WALLS * 200)), r"segmentation/0001\.png holds 200"),
    "class map in colour": (put("segmentation/0001.png", image(".png", np.zeros((*SIZE, 3), np.uint8))), "RGB image"),
    "class map of 16 bits": (put("segmentation/0001.png", image(".png", WALLS.astype(np.uint16))), "8 bits"),
    "label of another size": (put("segmentation/0001.png", image(".png", np.ones((30, 60), np.uint8))),
                              r"segmentation/0001\.png is 30x60, its photograph 32x64"),
    "depth of another size": (put("depth/1001.npy", npy(np.ones((64, 32), np.float32))), "64x32, its photograph 32"),
    "depth in millimetres": (put("depth/0001.npy", npy(WALLS.astype(np.float32) * 2310)), "looks like millimetres"),
    "negative depth": (put("depth/0001.npy", npy(-WALLS.astype(np.float32))), "holds depth that is negative"),
    "depth of text": (put("depth/0001.npy", npy(np.full(SIZE, "x"))), "expected numbers"),
    "normals in bytes": (put("normals/0001.npy", npy((UP * 127 + 128).astype(np.uint8))), "not unit vectors"),
    "normals without direction": (put("normals/0001.npy", npy(UP[..., 0])), r"expected \(H, W, 3\)"),
    "edges of 255": (put("edge/0001.npy", npy(WALLS * 255)), r"edge/0001\.npy"),
}  # fmt: skip

AT_DOWNLOAD = ("missing split file",)  # an archive without it is another archive


@pytest.fixture
def stage(in_tmp, root, monkeypatch, capsys):
    """Run download and prepare on a changed dataset, as DVC does; returns exit codes and what was printed."""
    monkeypatch.setenv("PIPELINE_ARCHIVES", "archives")
    (in_tmp / "archives").mkdir()
    shutil.copy(root / "dvc.yaml", in_tmp)
    params = yaml.safe_load((root / "profiles/nyud.yaml").read_text())
    params["data"] |= {"archive": "small.tgz"}

    def call(files, **data):
        write_tgz(files, in_tmp / "archives" / "small.tgz")
        params["data"] |= data
        (in_tmp / "params.yaml").write_text(yaml.safe_dump(params))
        codes = []
        for main in (stages.download.main, stages.prepare.main):
            with pytest.raises(SystemExit) as ended:
                run_stage(main, argv=[])
            codes.append(ended.value.code)
        return codes, capsys.readouterr()

    return call


def test_the_dataset_is_right_before_it_is_broken(stage, in_tmp):
    codes, printed = stage(nyud_files())
    assert codes == [0, 0], printed.err
    assert "prepared nyud: 3 train, 2 val" in printed.out and (in_tmp / "data/prepared/dataset.json").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_one_clear_message(stage, in_tmp, kind):
    change, message = KINDS[kind]
    codes, printed = stage(change(nyud_files()))
    assert codes == [2, 2] if kind in AT_DOWNLOAD else [0, 2]
    assert re.search(message, printed.err, re.DOTALL), printed.err
    assert "Traceback" not in printed.err and len(printed.err) < 1500
    assert not (in_tmp / "data/prepared").exists() and not (in_tmp / "data/.prepared").exists()


def test_broken_samples_can_be_left_out(stage):
    files = without("depth/0001.npy")(cut("images/1001.jpg")(nyud_files()))
    codes, printed = stage(files, skip_broken=True)
    assert codes == [0, 0] and "prepared nyud: 2 train, 1 val" in printed.out
    assert "left out: 1 of 3 train samples of nyud is broken" in printed.err


def test_an_edit_while_it_is_prepared_is_told(stage, in_tmp, monkeypatch):
    def edit(*arguments):
        file = in_tmp / "params.yaml"
        file.write_text(file.read_text().replace("skip_broken: false", "skip_broken: true"))
        return prepare(*arguments)

    prepare = preparation.prepare
    monkeypatch.setattr(preparation, "prepare", edit)
    codes, printed = stage(nyud_files())
    assert codes == [0, 2]
    assert printed.err.splitlines()[1:] == [
        "  param data.skip_broken",
        "undo the edit, or run `dvc repro` again for a result of the new state",
    ]
