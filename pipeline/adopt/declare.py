"""A checkpoint as a run of params.yaml: all that `train` will check, then the entry for it."""

from __future__ import annotations

from pathlib import Path

from pipeline.adopt.checkpoint import read_checkpoint
from pipeline.adopt.network import Adoption, adopt
from pipeline.core import names, paths
from pipeline.core.errors import ParamsError
from pipeline.data.store import read_info
from pipeline.params.load import parse_params
from pipeline.params.schema import Params
from pipeline.params.yaml_edit import set_values
from pipeline.params.yaml_file import parse_yaml


def check(params: Params, file: Path, run: str, seed: int | None, code: str | None) -> tuple[int, Adoption]:
    """The seed, the only one unless given, and what is found of the file as the network of `run`.

    Raises ParamsError for a run or seed that params lack, and DataError and ParamsError as `adopt` does.
    """
    if run not in params.runs:
        raise ParamsError(
            f"params: {names.unknown('run', run, params.runs)}. Declare it in runs first: its architecture, tasks and "
            "backbone say what the file should be"
        )
    if seed is None and len(params.seeds) > 1:
        raise ParamsError(f"params: seeds are {', '.join(map(str, params.seeds))}; say by --seed whose file this is")
    seed = params.seeds[0] if seed is None else seed
    if seed not in params.seeds:
        raise ParamsError(f"--seed {seed} is none of seeds ({', '.join(map(str, params.seeds))}); add it there")
    _, adoption = adopt(read_checkpoint(file), params.run(run), read_info(), code)
    return seed, adoption


def declare(run: str, seed: int, adoption: Adoption) -> bool:
    """Write the file and its SHA-256 as those of `run` with `seed` into params.yaml, where all else stays as it is.

    Returns whether that changed anything. Raises ParamsError where the text can't be edited so.
    """
    before = paths.PARAMS.read_bytes().decode("utf-8")
    place = ("runs", run, "adopted", str(seed))
    file = adoption.file.path.resolve()
    root = Path.cwd().resolve()
    named = file.relative_to(root) if file.is_relative_to(root) else file
    values: dict[tuple[str, ...], str] = {(*place, "file"): named.as_posix(), (*place, "sha256"): adoption.file.sha256}
    after = set_values(before, values, str(paths.PARAMS))
    parse_params(parse_yaml(after), str(paths.PARAMS))
    if after == before:
        return False
    with paths.atomic(paths.PARAMS, "wb") as written:
        written.write(after.encode("utf-8"))
    return True
