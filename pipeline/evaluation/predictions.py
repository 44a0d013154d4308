"""reports/panels/<run>-<seed>/predictions.safetensors: what `evaluate` keeps of a run for the report to paint.

Safetensors, uncompressed: equal arrays are equal bytes, whichever Python and zlib wrote them, so that a clone that
reproduces a result finds nothing changed. A .npz differs between 3.11.2 and 3.11.7, and its compression between zlibs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from pipeline.core import paths
from pipeline.core.integrity import read_recorded

_ORDER = "order"  # of the file's metadata: names as they were written


def predictions_file(run: str, seed: int) -> Path:
    """The predictions, and the attention, that the report paints."""
    return paths.panel_dir(run, seed) / "predictions.safetensors"


def write_predictions(run: str, seed: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write {"<sample id>/<task>": prediction in a label's layout, ..}, whole or not at all. Raises OSError."""
    # Safetensors 0.8 writes memory as it lies, whatever the order (findings/safetensors-numpy-writes-memory-order.sh);
    # np.ascontiguousarray would give an array without dimensions one.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = save(ordered, {_ORDER: json.dumps(list(ordered))})
    with paths.atomic(predictions_file(run, seed), "wb") as file:
        file.write(content)


def load_predictions(run: str, seed: int, sha256: str) -> dict[str, np.ndarray]:
    """What `evaluate` kept of a run: {"<sample id>/<task>": prediction in a label's layout}, and attention of a sample,
    in the order in which it was written.

    `attention.of_sample` finds the latter. sha256: of the file, as the metrics file has it. Raises DataError for a file
    that is another or missing.
    """
    content = read_recorded(predictions_file(run, seed), sha256, paths.metrics_file(run, seed))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # by the format's definition
    arrays = load(content)  # in an order that differs from process to process
    return {name: arrays[name] for name in json.loads(header["__metadata__"][_ORDER])}
