"""prepare: every sample is opened and checked, what is broken is named, and nothing half-written is taken for whole."""

import numpy as np
import pytest

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store, read_info
from pipeline.datasets import DATASETS, preparation
from pipeline.datasets.preparation import prepare
from pipeline.datasets.spec import Dataset
from pipeline.params.schema import Data

COUNTS = {"train": 6, "val": 3}


def ids(split: str) -> list[str]:
    return [f"{split}-{i}" for i in range(COUNTS[split])]


def read(raw, split, sample_id, params):
    rng = np.random.default_rng(list(sample_id.encode()))
    value = rng.integers(0, 3, (8, 10), dtype=np.uint8)
    valid = np.full(value.shape, not sample_id.endswith("4"))  # one training sample has no valid pixel
    return Sample(sample_id, rng.integers(0, 256, (8, 10, 3), np.uint8), {"semseg": Label(value, valid)})


def broken(*which: str):
    """A reader for which the named samples are broken."""

    def reader(raw, split, sample_id, params):
        if sample_id in which:
            raise DataError(f"segmentation/{sample_id}.png is missing")
        return read(raw, split, sample_id, params)

    return reader


@pytest.fixture
def run(tmp_path, monkeypatch):
    """prepare() on a small dataset that takes the place of nyud."""
    (tmp_path / "raw").mkdir()

    def call(
        reader=read, published=None, original=True, splits=lambda raw, params: {s: ids(s) for s in COUNTS}, **data
    ):
        classes = {"semseg": ("a", "b", "c")}
        fake = Dataset("nyud", classes, ("semseg",), 0.011, splits, reader, published)
        monkeypatch.setitem(DATASETS, "nyud", fake)
        paths.write_json(tmp_path / "raw" / "source.json", {"generated": True, "published": original})
        params = Data(dataset="nyud", tasks=("semseg",), **data)
        return prepare(tmp_path / "raw", tmp_path / "data" / "prepared", params, workers=1)

    call.target = tmp_path / "data" / "prepared"
    return call


def test_whole_dataset(run):
    info = run(published=COUNTS)
    assert info.splits == COUNTS and info.published and info.skipped == {"train": (), "val": ()}
    assert read_info(run.target) == info
    assert sorted(path.name for path in run.target.parent.iterdir()) == [".prepared.lock", "prepared"]


def test_every_broken_sample_is_named_and_nothing_is_written(run):
    with pytest.raises(DataError) as error:
        run(broken("train-1", "train-5"))
    message = str(error.value)
    assert "2 of 6 train samples of nyud are broken" in message and "data.skip_broken" in message
    assert "train-1: segmentation/train-1.png is missing" in message and "train-5" in message
    assert not run.target.exists()


def test_only_the_first_few_are_shown(run):
    with pytest.raises(DataError, match=r"(?s)train-4: .*and 1 more") as error:
        run(broken(*ids("train")))
    assert str(error.value).count(".png") == 5


def test_broken_samples_may_be_left_out_and_are_counted(run, capsys):
    info = run(broken("train-1", "val-0"), published=COUNTS, skip_broken=True)
    assert info.skipped == {"train": ("train-1",), "val": ("val-0",)}
    assert info.splits == {"train": 5, "val": 2} and not info.published
    assert "train-1" not in Store(run.target / "train", ["semseg"]).ids
    assert "left out: 1 of 6 train samples" in capsys.readouterr().err


def test_a_split_of_broken_samples_only_is_an_error_in_any_case(run):
    with pytest.raises(DataError, match=r"(?s)'val' is empty: all are broken.*val-0"):
        run(broken(*ids("val")), skip_broken=True)


def test_reading_stops_when_nearly_everything_is_broken(run, monkeypatch):
    monkeypatch.setattr(preparation, "_ENOUGH", 3)
    with pytest.raises(DataError, match="at least 3 of 6 train samples"):
        run(broken(*ids("train")[1:]))


def test_a_label_of_the_wrong_type_is_a_broken_sample(run):
    def reader(raw, split, sample_id, params):
        sample = read(raw, split, sample_id, params)
        label = sample.labels["semseg"]
        return Sample(sample_id, sample.image, {"semseg": Label(label.value.astype(np.int64), label.valid)})

    with pytest.raises(DataError, match=r"train-0: .*semseg is int64"):
        run(reader)


def test_counts_must_be_those_published_unless_another_archive_was_named(run):
    more = {"train": 7, "val": 3}
    with pytest.raises(DataError, match=r"6 train \(published: 7\)"):
        run(published=more)
    assert not run(published=more, original=False).published


def test_a_limit_takes_the_first_and_is_no_published_split(run):
    info = run(published=COUNTS, limit=2)
    assert info.splits == {"train": 2, "val": 2} and not info.published
    assert Store(run.target / "train", ["semseg"]).ids == ["train-0", "train-1"]


def test_splits_must_not_overlap(run):
    with pytest.raises(DataError, match="2 ids are in both train and val"):
        run(splits=lambda raw, params: {"train": ids("train") + ids("val")[:2], "val": ids("val")})
    for other in ("train", "val"):
        test = ["test-0", ids(other)[1]]
        with pytest.raises(DataError, match=f"1 ids are in both {other} and test, the first: {other}-1"):
            run(splits=lambda raw, params, test=test: {split: ids(split) for split in COUNTS} | {"test": test})


def test_a_limit_holds_for_a_test_split_too(run):
    test = {"test": [f"test-{i}" for i in range(4)]}
    info = run(splits=lambda raw, params: {split: ids(split) for split in COUNTS} | test, limit=2)
    assert info.splits == {"train": 2, "val": 2, "test": 2}
    assert Store(run.target / "test", ["semseg"]).ids == test["test"][:2]


def test_leftovers_of_a_killed_call_are_removed_and_old_data_replaced(run):
    run()
    leftover = run.target.parent / ".prepared" / "extracted-x"
    leftover.mkdir(parents=True)
    (leftover / "big.bin").write_bytes(b"x")
    (run.target / "stray").write_bytes(b"from before")
    run()
    assert not leftover.parent.exists() and not (run.target / "stray").exists()


def test_one_at_a_time(run):
    run()
    with preparation._scratch(run.target), pytest.raises(DataError, match="another process"):
        run()


def test_samples_without_a_valid_pixel_teach_nothing(run):
    run()
    store = Store(run.target / "train", ["semseg"])
    labelled = store.labelled()
    assert labelled.ids == [name for name in store.ids if name != "train-4"]
    for i, name in enumerate(labelled.ids):
        np.testing.assert_array_equal(labelled[i].image, store[store.ids.index(name)].image)
    assert store.select([2, 0]).select([1]).ids == ["train-0"]
