"""A network as a model in MLflow, which `mlflow.pytorch.load_model` and pyfunc open."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.results.comparison import Comparison
from pipeline.tools.export.card import summary
from pipeline.tools.export.config import ModelConfig
from pipeline.tools.export.folder import OWN, export_folder
from pipeline.tools.export.graph import Deployed
from pipeline.tools.export.model import Model
from pipeline.tools.export.trained import Trained, open_trained

BEST = "best"
_RESERVED = re.compile(r"latest|best|v\d+", re.IGNORECASE)  # by MLflow, and by us
_REQUIREMENTS = ("torch", "timm", "numpy")


class Stacked(nn.Module):
    """All maps as one tensor, since MLflow's pyfunc takes a single output: (B, 3, H, W) in 0..1 -> (B, C, H, W)
    float32, the decoded maps of the tasks in their order, C the sum of their channels."""

    def __init__(self, model: Model):
        super().__init__()
        self.deployed = Deployed(model, model.network)

    def forward(self, image: Tensor) -> Tensor:
        """Images at the training's size -> maps."""
        return torch.cat([each.float() for each in self.deployed(image)[: len(self.deployed.tasks)]], dim=1)


def export_mlflow(trained: Trained) -> str:
    """Log the network to the run that trained it, and return models:/<name>/<version>.

    Its names there: see `aliases`. Raises DataError where MLflow's store has no run of these weights, TrackingError
    where it can't be used.
    """
    from pipeline.tracking.models import log_network  # imports mlflow
    from pipeline.tracking.queries import find_result

    record, config = trained.record, trained.config
    run = find_result(record.run, record.seed, record.weights_sha256)
    if run is None:
        raise DataError(
            f"MLflow's store has no run that made the weights of {config.name}: name the store in MLFLOW_TRACKING_URI, "
            "or run `dvc repro` in this folder"
        )
    delta = Comparison.read(paths.DELTA_JSON) if paths.DELTA_JSON.exists() else None
    network = Stacked(open_trained(trained.saved, "cpu")).eval()
    example = torch.rand(2, 3, *config.input_size)
    with torch.no_grad(), TemporaryDirectory() as folder:
        maps = network(example).numpy()
        kept = export_folder(trained, Path(folder) / config.name)
        requirements = [f"{name}=={config.versions[name]}" for name in _REQUIREMENTS]
        files = [kept / name for name in OWN]
        tags = {"run": record.run, "seed": str(record.seed), "weights_sha256": record.weights_sha256}
        return log_network(
            run,
            network,
            example.numpy(),
            maps,
            files,
            requirements,
            aliases(config, delta),
            summary(config, record),
            tags,
        )


def aliases(config: ModelConfig, delta: Comparison | None) -> list[str]:
    """Names for the registered network: <run>-<seed>; of a run's first seed also <run>, and `best` at the highest Δm.

    The first of params' seeds, not the one that scored best: to choose by the scores that are reported would flatter
    them. delta: what was compared; without it a run's first seed is not known.
    """
    found = [config.name]
    seeds = [] if delta is None else [row.seed for row in delta.per_seed if row.run == config.run]
    if delta is None or not seeds or config.seed != seeds[0]:
        return found
    if not _RESERVED.fullmatch(config.run) and config.run not in {f"{row.run}-{row.seed}" for row in delta.per_seed}:
        found.append(config.run)
    if config.run == max(delta.delta_m, key=lambda run: delta.delta_m[run].mean, default=None):
        found.append(BEST)
    return found
