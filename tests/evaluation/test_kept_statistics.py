"""What the scorer keeps of each image: the same for any batches and processes, and what its file gives back."""

import numpy as np
import pytest
import torch

from pipeline.compute import distributed
from pipeline.compute.device import choose_device
from pipeline.core.integrity import file_sha256
from pipeline.data.store import Store
from pipeline.evaluation.scoring import Scorer, finite_or_none, score_with
from pipeline.evaluation.statistics import SplitStatistics, _read
from pipeline.tasks import get_task
from tests.compute.test_distributed import together
from tests.evaluation.test_scoring import ALL, INFO, RECIPE, Pointwise, evaluation_store

CPU = choose_device("float32", True)


def kept(folder, batch_size):
    """Scores and statistics of a split of five images of five sizes."""
    store = Store(folder / "val", ALL)
    scorer = Scorer(ALL, INFO, torch.device("cpu"))
    score_with(scorer, Pointwise(), store, ALL, RECIPE, batch_size, CPU)
    return scorer.compute(), SplitStatistics(store.ids, scorer.statistics, scorer.formulas)


def test_the_file_gives_back_what_was_kept_and_the_scores(tmp_path):
    evaluation_store(tmp_path / "val")
    scores, statistics = kept(tmp_path, 2)
    scores = finite_or_none(scores)
    statistics.write(tmp_path / "a.parquet")
    read = _read((tmp_path / "a.parquet").read_bytes())
    assert read.ids == statistics.ids and read.formulas == statistics.formulas
    for task, arrays in statistics.tasks.items():
        assert read.tasks[task].keys() == arrays.keys()
        for name, array in arrays.items():
            assert len(array) == 5 and read.tasks[task][name].dtype == array.dtype
            assert np.array_equal(read.tasks[task][name], array)
    primary = {task: scores[task][get_task(task).primary_metric] for task in ALL}
    read.check_scores(primary)
    with pytest.raises(ValueError, match=r"depth is .* by what each image adds to it"):
        read.check_scores(primary | {"depth": primary["depth"] * (1 + 1e-8)})
    with pytest.raises(ValueError, match="sal is None"):
        read.check_scores(primary | {"sal": None})


def scores_and_files(folder):
    """Scores as text and SHA-256 of the files, for batches of several sizes."""
    found = []
    for size in (1, 2, 4, 5):
        path = folder / f"{size}-{distributed.rank()}.parquet"
        scores, statistics = kept(folder, size)
        statistics.write(path)
        found.append((repr(scores), file_sha256(path)))
    return found


@pytest.mark.slow
def test_two_processes_score_and_keep_what_one_does_to_the_bit(tmp_path):
    """Five samples in batches of 1, 2, 4 and 5: shares of unequal size, down to none at all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    evaluation_store(tmp_path / "val")
    alone = scores_and_files(tmp_path)
    torch.set_num_threads(threads)
    assert together(scores_and_files, tmp_path) == [alone, alone]
