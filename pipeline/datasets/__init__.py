"""The datasets by the name that `data.dataset` in params.yaml uses. A new one: a file and a line below."""

from __future__ import annotations

from pipeline.core import names
from pipeline.core.errors import DataError
from pipeline.datasets.ccp import CCP
from pipeline.datasets.cityscapes_128 import CITYSCAPES_128
from pipeline.datasets.folder import FOLDER
from pipeline.datasets.nyud import NYUD
from pipeline.datasets.nyuv2_288 import NYUV2_288
from pipeline.datasets.pascal_context import PASCAL_CONTEXT
from pipeline.datasets.rooms.dataset import ROOMS
from pipeline.datasets.spec import Dataset

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (ROOMS, CCP, NYUD, PASCAL_CONTEXT, NYUV2_288, CITYSCAPES_128, FOLDER)
}


def get_dataset(name: str) -> Dataset:
    """The dataset of that name. Raises DataError with the nearest known name."""
    if name not in DATASETS:
        raise DataError(names.unknown("dataset", name, DATASETS))
    return DATASETS[name]
