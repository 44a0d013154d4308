from __future__ import annotations

import pytest

from pipeline.params.load import parse_params
from pipeline.params.schema import Params
from pipeline.results.run_metrics import RunMetrics
from tests.support.compared import raw_params, result


@pytest.fixture
def params() -> Params:
    return parse_params(raw_params())


@pytest.fixture
def results(params: Params) -> list[RunMetrics]:
    return [result(params, run, seed) for run in params.runs for seed in params.seeds]
