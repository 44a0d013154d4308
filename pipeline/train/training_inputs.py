"""What a training is made from, and the key of what is kept of it."""

from __future__ import annotations

from pathlib import Path

from pipeline.compute.device import Device
from pipeline.core import forms, paths, provenance
from pipeline.data.store import DatasetInfo
from pipeline.params.schema import Params, ResolvedRun


def training_inputs(
    params: Params,
    name: str,
    seed: int,
    info: DatasetInfo,
    device: Device,
    processes: int = 1,
    start: dict[str, dict[str, str]] | None = None,
) -> provenance.Inputs:
    """All that decides the result, and the hardware and precision, which a training is not to change on its way.

    start: the trained networks that the run starts from, where they are known otherwise than from their file.
    """
    run = params.run(name)
    start = start_of(run, seed) if start is None else start
    # No weight depends on the name of a run, nor on where a file lies.
    values = run.model_dump(exclude={"name": True, "adopted": True, "training": {"cpu_threads"}})
    values |= {"seed": seed, "select_on": params.evaluation.select_on, "start": start}
    values |= {"device": device.torch_device.type, "dtype": str(device.dtype)}
    values["cpu_threads"] = device.cpu_threads  # those in force, which null leaves to the machine
    values["processes"] = processes
    pretrained = run.training.pretrained
    files = [Path(pretrained)] if isinstance(pretrained, str) else []
    inputs = provenance.collect_inputs("train", values, info.digest, files)
    if run.adopted:
        adopted = run.adopted.get(seed)
        return provenance.Inputs(inputs.values | provenance.adoption_inputs(adopted.sha256 if adopted else ""))
    return provenance.Inputs(inputs.values | provenance.selection_inputs(params.evaluation.select_on))


def training_key(inputs: provenance.Inputs, info: DatasetInfo, run: str) -> str:
    """Names what is kept of a training: its inputs, the code that scores it on the way, and the run.

    The run, so that two of them which differ by name alone may train side by side.
    """
    scoring = provenance.collect_inputs("evaluate", {}, info.digest)
    return provenance.Inputs(inputs.values | scoring.values | {"run": run}).fingerprint


def start_of(run: ResolvedRun, seed: int) -> dict[str, dict[str, str]]:
    """{task: {run, sha256}}: the trained networks that the run starts from; empty where it starts afresh."""
    if not run.from_single_task:
        return {}
    file = paths.start_file(run.name, seed)
    return forms.check_start(file, paths.read_json(file))
