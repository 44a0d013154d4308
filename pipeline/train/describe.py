"""What MLflow records of a run before it begins: params, tags and the data."""

from __future__ import annotations

import torch

from pipeline.compute import distributed
from pipeline.compute.device import Device
from pipeline.core import git, paths, provenance
from pipeline.data.store import DatasetInfo
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.pairing import LoadReport
from pipeline.params.schema import Params, ResolvedRun
from pipeline.tracking.run_log import RunLog
from pipeline.train.step import uses_cuda_graph


def load_report(network: torch.nn.Module) -> LoadReport | str | None:
    """Where the weights of its backbone are from."""
    assert isinstance(network.backbone, Backbone)
    return network.backbone.load_report


def describe(
    log: RunLog,
    params: Params,
    run: ResolvedRun,
    seed: int,
    info: DatasetInfo,
    network: torch.nn.Module,
    device: Device,
    inputs: provenance.Inputs,
) -> None:
    """Tell MLflow, at the start, what this run is."""
    log.params(params.shown(run.name) | {"run": run.name, "seed": seed})
    log.json(params.flat(run.name), "resolved_params.json")
    log.artifact(paths.PARAMS)
    log.tags(
        {
            "run": run.name,
            "seed": str(seed),
            "architecture": run.architecture,
            "tasks": ",".join(run.tasks),
            "input_fingerprint": inputs.fingerprint,
            "device": device.description,
            "processes": str(distributed.world_size()),
            "precision": str(device.dtype).removeprefix("torch."),
            "tf32": str(device.tf32).lower(),
            "cuda_graph": str(uses_cuda_graph(run, device)).lower(),
            "compiled": str(run.training.compile).lower(),
            "fused_optimizer": str(device.has_fused_optimizers).lower(),
            "pretrained": str(load_report(network) or "none: random initialisation"),
            **{f"version.{package}": number for package, number in provenance.environment().items()},
            **git.git_state(),
            **provenance.dvc_tags(),
        }
    )
    log.dataset(f"{info.dataset} train", info.digest, "training")
