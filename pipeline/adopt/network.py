"""A run's network with the weights of a file: what `train` makes of an adopted run, and the command checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.adopt.accounting import Accounting, map_tensors
from pipeline.adopt.checkpoint import Checkpoint
from pipeline.adopt.codes import Network, find_network, rules_for
from pipeline.data.store import DatasetInfo
from pipeline.networks.from_params import build_network
from pipeline.params.schema import ResolvedRun


@dataclass(frozen=True)
class Adoption:
    """A file that became a network: of which code, and the account of its tensors."""

    file: Checkpoint
    found: Network
    account: Accounting

    def lines(self) -> list[str]:
        """What was found, for people."""
        epoch = "" if self.file.epoch is None else f", epoch {self.file.epoch}"
        lines = [f"{self.file.path}: {self.found.architecture} in the names of {self.found.code}{epoch}"]
        if self.file.beside:
            which = "which is" if len(self.file.beside) == 1 else "which are"
            lines.append(f"beside the network it holds {', '.join(self.file.beside)}, {which} not looked at")
        return [*lines, *self.account.lines()]

    def as_object(self) -> dict[str, Any]:
        """The same for JSON, with the names of all tensors."""
        return {
            "file": str(self.file.path),
            "sha256": self.file.sha256,
            "code": self.found.code,
            "epoch": self.file.epoch,
            "beside": list(self.file.beside),
            **self.account.as_object(),
        }


def adopt(file: Checkpoint, run: ResolvedRun, info: DatasetInfo, code: str | None = None) -> tuple[nn.Module, Adoption]:
    """The network of `run` with the file's weights. code: whose names it has; None: whichever they are.

    Raises DataError for a file that does not fit, ParamsError for a run that is not what the file was trained as.
    """
    found = find_network(file, code)
    network = build_network(run, info)
    rules = rules_for(file, found, run, network)
    state, account = map_tensors(rules, file.tensors, network.state_dict(), f"{file.path} as run {run.name}")
    network.load_state_dict(state)
    return network, Adoption(file, found, account)
