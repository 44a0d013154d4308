"""The plain lists of names, which params are checked against without torch, equal the real registries."""

from pipeline.core import names
from pipeline.datasets import DATASETS
from pipeline.networks.registry import ARCHITECTURES
from pipeline.tasks import TASKS


def test_tasks():
    assert set(names.TASKS) == set(TASKS)


def test_datasets_and_their_tasks():
    assert {name: dataset.tasks for name, dataset in DATASETS.items()} == names.DATASET_TASKS


def test_architectures_and_their_options():
    options = {name: kind.OPTIONS for name, kind in ARCHITECTURES.items()}
    assert options == names.ARCHITECTURE_OPTIONS
    assert set(names.TASK_COUNT) == set(ARCHITECTURES)
