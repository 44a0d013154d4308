"""config.json of an exported folder: everything that it takes to build the network and to read its predictions.

It is read with the standard library alone, so that an exported network needs neither the pipeline's params nor DVC.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.core.errors import DataError

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "MODEL_CARD.md"
FORMAT = "sequential-cross-attention/network"
VERSION = 1
REMEDY = "get the folder again from where it came, or write it anew with `python -m stages.export`"

_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says.

    tasks: {task: channels} that are predicted, auxiliary_tasks: of heads that only training used. classes: {task: names
    in the order of the indices}. units: {task: of a prediction}. input_size: [height, width] in pixels, to which a
    photograph is resized. normalization: a name of `compute.device.NORMALIZATIONS`; mean and std, of images in 0..1,
    are what it stands for. precision, channels_last: as in params. weights_sha256: of model.safetensors. versions: of
    the libraries at the export. provenance: commit, data and MLflow run of the training, as far as they were known.
    """

    run: str
    seed: int
    architecture: str
    options: dict[str, Any]
    backbone: str
    output_stride: int
    hrnet_upsampling: str
    tasks: dict[str, int]
    auxiliary_tasks: dict[str, int]
    classes: dict[str, list[str]]
    units: dict[str, str]
    edge_max_dist: float
    input_size: list[int]
    normalization: str
    mean: list[float]
    std: list[float]
    precision: str
    channels_last: bool
    weights_sha256: str
    licence: str
    versions: dict[str, str]
    provenance: dict[str, str]

    @property
    def name(self) -> str:
        """<run>-<seed>."""
        return f"{self.run}-{self.seed}"

    def as_json(self) -> str:
        """The text of config.json, which ends with a checksum of the rest."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def read_config(file: Path) -> ModelConfig:
    """Read what `as_json` gave. Raises DataError for a file that is missing, foreign, newer or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror or error}); {REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged ({error}); {REMEDY}") from None
    return parse_config(content, str(file))


def parse_config(content: object, source: str) -> ModelConfig:
    """The config among JSON's values; `source` is named in messages. Raises DataError as `read_config` does."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{source} describes no network of this pipeline: its `format` is not {FORMAT!r}")
    version = content.get("version")
    if type(version) is not int or version > VERSION:
        raise DataError(
            f"{source} is of version {version!r}, this code reads versions up to {VERSION}: update the code, or export "
            "the network with this one"
        )
    given = content.pop("checksum", None)
    if given != _checksum(content):
        raise DataError(f"{source} is damaged: it has changed since it was written (its checksum is another); {REMEDY}")
    values = {key: value for key, value in content.items() if key not in ("format", "version")}
    known = {field.name: str(field.type) for field in fields(ModelConfig)}
    if wrong := [*(known.keys() - values.keys()), *(values.keys() - known.keys())]:
        raise DataError(f"{source} lacks, or has beyond what is known: {', '.join(sorted(wrong))}; {REMEDY}")
    for name, kind in known.items():
        expected = _TYPES.get(kind, dict if kind.startswith("dict") else list)
        if not isinstance(values[name], expected):
            raise DataError(f"{source} says {name} = {values[name]!r}, expected {kind}; {REMEDY}")
    return ModelConfig(**values)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
