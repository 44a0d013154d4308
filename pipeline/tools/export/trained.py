"""A folder in models, read and checked, as what is exported and as a model that predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.compute.device import Device
from pipeline.core import paths
from pipeline.core.errors import REPAIR
from pipeline.core.integrity import read_recorded
from pipeline.networks.saved_weights import load_weights
from pipeline.results.run_record import RunRecord
from pipeline.tools.export.config import ModelConfig
from pipeline.tools.export.describe import describe_run, with_origin
from pipeline.tools.export.model import Model, build_network, choose_device
from pipeline.tools.saved_model import SavedModel, read_saved_model

REMEDY = f"copy both from one place, or {REPAIR}"


@dataclass(frozen=True)
class Trained:
    """A trained network: its folder, its config with its origin, and what run.json says."""

    saved: SavedModel
    config: ModelConfig
    record: RunRecord

    def weights(self) -> bytes:
        """The bytes of its weights. Raises DataError where they are not those that run.json describes."""
        return read_recorded(self.saved.weights, self.saved.sha256, self._file, REMEDY)

    @property
    def _file(self) -> Path:
        return self.saved.weights.with_name(paths.RUN_RECORD)


def read_trained(folder: Path) -> Trained:
    """Read models/<run>-<seed>, weights not yet. Raises DataError as `read_saved_model` does."""
    saved = read_saved_model(folder)
    record = RunRecord.read(folder / paths.RUN_RECORD)
    return Trained(saved, with_origin(describe_run(saved), record), record)


def open_trained(saved: SavedModel, device: Device | str | None = None) -> Model:
    """The network with its weights. device: None, or a name: as `choose_device` has it.

    Raises DataError for one that can't be built, and as `load_weights` does.
    """
    config = describe_run(saved)
    record = saved.weights.with_name(paths.RUN_RECORD)
    network = build_network(config, record)
    load_weights(network, saved.weights, saved.sha256, record, REMEDY)
    return Model(network, config, device if isinstance(device, Device) else choose_device(config, device))


__all__ = ["Trained", "open_trained", "read_saved_model", "read_trained"]
