"""The only reader of params.yaml.

Every problem of a file is reported in one message, each line naming the key, the value and what is allowed.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from pipeline.core import names
from pipeline.core.errors import ParamsError
from pipeline.params.limits import folder_problems, size_problems
from pipeline.params.messages import Problem, problems_of, tell
from pipeline.params.rules import cross_problems, recipe_problems, source_problems
from pipeline.params.schema import Params, Training, merge
from pipeline.params.search_rules import search_problems
from pipeline.params.yaml_file import read_otherwise, read_yaml


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate a params file. Raises ParamsError with every problem found, one a line."""
    raw = read_yaml(path)
    if problems := read_otherwise(path):
        raise ParamsError(tell(str(path), problems))
    return parse_params(raw, str(path))


def parse_params(raw: dict, origin: str = "params") -> Params:
    """Validate what a params file holds. Raises ParamsError, whose message begins with `origin`."""
    problems: list[Problem] = []
    params = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        problems += problems_of(error, Params)
    problems += _override_problems(raw)
    if params is not None:
        problems += [*cross_problems(params), *folder_problems(params)]
        if not problems:
            problems += [*recipe_problems(params), *source_problems(params), *size_problems(params)]
            problems += search_problems(params)
    if problems or params is None:
        raise ParamsError(tell(origin, problems))
    return params


def _override_problems(raw: dict) -> list[Problem]:
    """Problems of each run's `training`, merged over the common one, whose own problems are reported there."""
    common = raw.get("training")
    if not isinstance(common, dict):
        return []
    problems: list[Problem] = []
    for family in names.RUN_FAMILIES:
        runs = raw.get(family)
        for name, run in runs.items() if isinstance(runs, dict) else ():
            override = run.get("training") if isinstance(run, dict) else None
            if not isinstance(override, dict):
                continue
            try:
                Training.model_validate(merge(common, override))
            except ValidationError as error:
                problems += problems_of(error, Training, prefix=f"{family}.{name}.training", only=override)
    return problems
