"""A metrics file, reports/metrics/<run>-<seed>.json: how `evaluate` scored a network, and what it says of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.core.provenance import Inputs
from pipeline.core.result_file import ResultFile


@dataclass(frozen=True)
class PrimaryMetric:
    """The one metric of a task that Δm compares."""

    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class RunMetrics(ResultFile):
    """Scores of one run and seed, and what they were measured on and made from.

    dataset_digest: SHA-256 of the packed data. samples: images of the split. training_samples: images that the network
    was trained on. labelled: {split: {task: images with a label}}. skipped: {split: broken samples left out}. weights:
    of which epoch. starts_from: {task: single-task run}. protocol: {task: how it was scored}, and for all. training:
    the run's section of params. parameters, macs, activation_bytes: what one image costs (pipeline/evaluation/cost.py).
    input_fingerprint, weights_sha256, device, processes, history_sha256: as in run.json. cpu_threads: of a training on
    a CPU; None on a GPU. inputs: `name=value` of all that training was made from, a list since `dvc metrics` skips
    these. tasks: {task: {metric: value}}, None where a metric is not defined. predictions_sha256: of the predictions
    that the report paints. statistics_sha256: of what each image adds to the primary scores.
    """

    version: ClassVar[int] = 2

    run: str
    seed: int
    architecture: str
    backbone: str
    dataset: str
    dataset_digest: str
    split: str
    samples: int
    training_samples: int
    labelled: dict[str, dict[str, int]]
    skipped: dict[str, int]
    published_split: bool
    weights: str
    starts_from: dict[str, str]
    protocol: dict[str, str]
    training: dict[str, Any]
    parameters: int
    macs: int
    activation_bytes: int
    input_fingerprint: str
    weights_sha256: str
    device: str
    processes: int
    cpu_threads: int | None
    inputs: list[str]
    primary_metric: dict[str, PrimaryMetric]
    tasks: dict[str, dict[str, int | float | None]]
    history_sha256: str
    predictions_sha256: str
    statistics_sha256: str

    def __post_init__(self) -> None:
        for task, metrics in self.tasks.items():
            primary = self.primary_metric.get(task)
            if primary is None or primary.metric not in metrics:
                raise ValueError(f"{task} is scored without its primary metric")
            if task not in self.protocol or task not in self.labelled.get("train", {}):
                raise ValueError(f"{task} is scored, and neither protocol nor labelled.train may lack it")

    @property
    def name(self) -> str:
        """<run>-<seed>."""
        return f"{self.run}-{self.seed}"

    @property
    def adopted(self) -> bool:
        """Whether the network was trained elsewhere, so that `training` says nothing of how."""
        return self.made_from.adopted

    @property
    def made_from(self) -> Inputs:
        """All that decided the weights."""
        return Inputs.parse(self.inputs)
