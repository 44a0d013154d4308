"""The packed store gives back exactly what went in, and refuses what is not whole."""

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.data.sample import Label, Sample, decode_normals
from pipeline.data.store import DatasetInfo, Store, digest, read_info, write_info, write_split

SHAPES = {"semseg": (), "depth": (), "normals": (3,)}
DTYPES = {"semseg": np.uint8, "depth": np.float32, "normals": np.float32}


def make_sample(rng: np.random.Generator, i: int) -> Sample:
    height, width = rng.integers(5, 20, 2)
    labels = {}
    for task, extra in SHAPES.items():
        size = (height + i % 2, width)  # a label may differ in size from its image
        value = (rng.random((*size, *extra)) * 40).astype(DTYPES[task])
        labels[task] = Label(value, rng.random(size) < 0.7)
    return Sample(f"id-{i}", rng.integers(0, 256, (height, width, 3), dtype=np.uint8), labels)


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return [make_sample(rng, i) for i in range(7)]


def test_gives_back_every_byte(tmp_path, samples):
    assert write_split(tmp_path / "train", iter(samples), SHAPES) == 7
    store = Store(tmp_path / "train", SHAPES)
    assert store.ids == [sample.id for sample in samples]
    for read, written in zip([store[i] for i in range(7)], samples, strict=True):
        np.testing.assert_array_equal(read.image, written.image)
        for task in SHAPES:
            assert read.labels[task].value.dtype == DTYPES[task]
            np.testing.assert_array_equal(read.labels[task].value, written.labels[task].value)
            np.testing.assert_array_equal(read.labels[task].valid, written.labels[task].valid)


def test_normals_in_eight_bits_are_kept_so_and_read_as_unit_vectors(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (16, 16, 3), np.uint8)
    image, valid = rng.integers(0, 256, (16, 16, 3), np.uint8), rng.random((16, 16)) < 0.5
    write_split(tmp_path, [Sample("a", image, {"normals": Label(codes, valid)})], ["normals"])
    assert (tmp_path / "normals.bin").stat().st_size == codes.size
    label = Store(tmp_path, ["normals"])[0].labels["normals"]
    expected = 2 * codes.astype(np.float64) / 255 - 1
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    assert label.value.dtype == np.float32 and np.abs(label.value - expected).max() < 1e-6
    np.testing.assert_array_equal(label.valid, valid)
    middle = decode_normals(np.array([[[127, 127, 127], [128, 128, 128]]], np.uint8))
    np.testing.assert_allclose(np.linalg.norm(middle, axis=-1), 1, rtol=1e-5)


def test_few_files_and_a_digest_of_their_bytes(tmp_path, samples):
    for name in "ab":
        write_split(tmp_path / name / "train", iter(samples), SHAPES)
    assert len(list((tmp_path / "a").rglob("*"))) == 1 + 1 + 1 + 2 * len(SHAPES)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    samples[3].labels["depth"].value[0, 0] += 1
    write_split(tmp_path / "c" / "train", iter(samples), SHAPES)
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


def test_truncated_file_is_told(tmp_path, samples):
    write_split(tmp_path / "val", iter(samples), SHAPES)
    path = tmp_path / "val" / "depth.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"depth\.bin is damaged: it holds .*doctor --verify --fix"):
        Store(tmp_path / "val", SHAPES)
    Store(tmp_path / "val", ["semseg"])  # the others are whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: Sample(s.id, s.image.astype(np.float32), s.labels), "expected uint8"),
        (lambda s: Sample(s.id, s.image, {}), "no label for semseg"),
        (lambda s: Sample(s.id, s.image, s.labels | {"depth": Label(s.labels["depth"].value, np.ones((2, 2), bool))}),
         "valid mask of depth"),
        (lambda s: Sample(s.id, s.image, s.labels | {"depth": Label(s.labels["depth"].value * np.nan,
                                                                     s.labels["depth"].valid)}), "not finite"),
        (lambda s: Sample(s.id, s.image, s.labels | {"depth": Label(s.labels["depth"].value.astype(np.float64),
                                                                     s.labels["depth"].valid)}), "expected float32"),
        (lambda s: Sample(s.id, s.image, s.labels | {"normals": Label(s.labels["normals"].value[..., 0],
                                                                       s.labels["normals"].valid)}), r", 3\)"),
        (lambda s: Sample("id-1", s.image, s.labels), "twice"),
    ],
)  # fmt: skip
def test_bad_samples_are_named(tmp_path, samples, change, message):
    samples[4] = change(samples[4])
    with pytest.raises(DataError, match=message):
        write_split(tmp_path / "train", iter(samples), SHAPES)


def test_empty_split_and_missing_labels(tmp_path, samples):
    with pytest.raises(DataError, match="empty"):
        write_split(tmp_path / "val", iter([]), SHAPES)
    write_split(tmp_path / "train", iter(samples), ["semseg"])
    with pytest.raises(DataError, match=r"no labels for depth; add them to data\.tasks"):
        Store(tmp_path / "train", ["semseg", "depth"])
    with pytest.raises(DataError, match="dvc repro prepare"):
        Store(tmp_path / "nowhere", ["semseg"])


def test_info_survives_the_file(tmp_path):
    info = DatasetInfo("rooms", ("semseg", "depth"), {"semseg": ("wall", "floor")}, 0.011, {"train": 2, "val": 1}, "ab")
    write_info(tmp_path, info)
    assert read_info(tmp_path) == info
    assert info.channels("semseg", None) == 2 and info.channels("depth", 1) == 1


def test_samples_without_a_label_teach_nothing_and_those_of_background_do(tmp_path):
    """No person: not labelled in PASCAL-Context, labelled as background in rooms; with another task both are kept."""
    image, everywhere = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), bool)
    people, nobody = np.full((4, 5), 2, np.uint8), np.zeros((4, 5), np.uint8)
    parts = {"people": (people, everywhere), "background": (nobody, everywhere), "unknown": (nobody, ~everywhere)}
    samples = [
        Sample(name, image, {"human_parts": Label(*label), "sal": Label(nobody, everywhere)})
        for name, label in parts.items()
    ]
    write_split(tmp_path / "train", iter(samples), ["human_parts", "sal"])
    assert Store(tmp_path / "train", ["human_parts"]).labelled().ids == ["people", "background"]
    assert Store(tmp_path / "train", ["human_parts", "sal"]).labelled().ids == list(parts)
