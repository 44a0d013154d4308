"""Where each number comes from, and the commands that make it again."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core import paths
from pipeline.report.content import Content


@dataclass(frozen=True)
class Source:
    """One network: digests of its weights and of all that decided them, the machine, and commands."""

    run: str
    seed: int
    weights: str
    inputs: str
    device: str
    trace: str
    repeat: str


def sources(content: Content) -> list[Source]:
    """Every run and seed, in the order of params."""
    found = []
    for name, seeds in content.results.items():
        run = content.params.run(name)
        for result in seeds:
            found.append(
                Source(
                    run=name,
                    seed=result.seed,
                    weights=result.weights_sha256,
                    inputs=result.input_fingerprint,
                    device=result.device,
                    trace=f"python -m stages.trace {paths.metrics_file(name, result.seed)}",
                    repeat=f"dvc repro -f -s {run.stage('train', result.seed)} {run.stage('evaluate', result.seed)}",
                )
            )
    return found
