"""run.json: what `train` says of a trained network, in the folder of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.provenance import Inputs
from pipeline.core.result_file import ResultFile


@dataclass(frozen=True)
class DescribedData:
    """What is needed of a dataset to build a network for it and to name its channels."""

    name: str
    classes: dict[str, list[str]]
    edge_max_dist: float


@dataclass(frozen=True)
class StartedFrom:
    """A trained network that another one starts from: its run, and the SHA-256 of its weights."""

    run: str
    sha256: str


@dataclass(frozen=True)
class RunRecord(ResultFile):
    """What the weights of one run and seed were made from, on what, and how they scored.

    Nothing that differs between two trainings that give the same weights: DVC hashes the file, and a clone that
    reproduces a result is to find nothing changed.

    input_fingerprint: SHA-256 of `inputs`, {name: value} of all that decides the result (core/provenance.py). dataset:
    of the run's tasks. device: the hardware in words. processes: that trained together. last_validation: {task:
    {metric: value}}, None for one that is not finite; empty without validation. weights: of which epoch. starts_from:
    by task. training_samples: images trained on. weights_sha256, history_sha256: of the files that training wrote.

    Of a network that was adopted, trained elsewhere, `weights` says so and names the file; processes and device are
    those that adopted it, training_samples is 0.
    """

    version: ClassVar[int] = 1

    run: str
    seed: int
    input_fingerprint: str
    inputs: dict[str, str]
    dataset: DescribedData
    device: str
    processes: int
    last_validation: dict[str, dict[str, int | float | None]]
    weights: str
    starts_from: dict[str, StartedFrom]
    training_samples: int
    weights_sha256: str
    history_sha256: str

    @property
    def made_from(self) -> Inputs:
        """All that decided the weights."""
        return Inputs(self.inputs)
