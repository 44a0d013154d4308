"""Kept predictions: the arrays come back as they were, and their file depends on nothing but them."""

import json
import struct

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.core.integrity import file_sha256
from pipeline.evaluation.predictions import load_predictions, predictions_file, write_predictions

ARRAYS = {
    "a b/semseg": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    "ä/depth": np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 2, 3),
    "ä/depth/csam": np.float32(0.5).reshape(()),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictions_file("net", 0).parent.mkdir(parents=True)


def test_arrays_come_back_whatever_their_order_in_memory():
    arrays = ARRAYS | {"turned": ARRAYS["ä/depth"].transpose(2, 1, 0), "every second": ARRAYS["a b/semseg"][..., ::2]}
    write_predictions("net", 0, arrays)
    found = load_predictions("net", 0, file_sha256(predictions_file("net", 0)))
    assert list(found) == list(arrays), "reports show tasks and scales in this order"
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


def test_the_file_holds_the_arrays_and_their_layout_alone():
    """No clock, no compression and no version of what wrote it, by the format's definition."""
    write_predictions("net", 0, ARRAYS)
    content = predictions_file("net", 0).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    assert json.loads(header.pop("__metadata__")["order"]) == list(ARRAYS)
    assert header.keys() == ARRAYS.keys() and sum(array.nbytes for array in ARRAYS.values()) == len(data)
    for name, array in ARRAYS.items():
        start, end = header[name]["data_offsets"]
        assert data[start:end] == array.tobytes() and header[name]["shape"] == list(array.shape)
    write_predictions("net", 0, ARRAYS)
    assert predictions_file("net", 0).read_bytes() == content


def test_another_file_is_refused():
    write_predictions("net", 0, ARRAYS)
    with pytest.raises(DataError, match=r"predictions\.safetensors is damaged, or not the file that .*net-0\.json"):
        load_predictions("net", 0, "0" * 64)
