"""Files that decide a result and that DVC knows by name alone: data.archive, weights of `pretrained`, adopted ones.

A stage of a matrix can't depend on a path that is a param of some runs, nor `download` on one that is mostly null. So
`stages.check` and `stages.parallel` look at them before DVC does; `dvc repro` by itself does not see them change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.core import paths
from pipeline.core.dvc_hashing import check_hashed
from pipeline.core.errors import DataError, OtherVersionError
from pipeline.core.integrity import file_sha256
from pipeline.params.schema import Params
from pipeline.results.run_record import RunRecord


def refuse_unseen(params: Params) -> None:
    """Raise DataError for data that DVC does not hash, and for files whose content changed since a stage read them."""
    if params.data.dataset == "folder":
        check_hashed(Path(params.data.folder))
    if changed := [*changed_archive(params), *changed_weights(params), *changed_adopted(params)]:
        raise DataError("\n".join(changed))


def changed_archive(params: Params) -> Iterator[str]:
    """Whether the file that data.archive names is another than the one that `download` read."""
    name, source = params.data.archive, paths.RAW / "source.json"
    if name is None or not source.exists():
        return
    from pipeline.download.own_files import local_archive  # imports much

    record = paths.read_json(source)
    path = local_archive(name)
    if path is None or record.get("source") != name or file_sha256(path) == record.get("sha256"):
        return
    yield f"data.archive: {path} has changed since it was read, which DVC does not see: run `dvc repro -s -f download`"


def changed_weights(params: Params) -> Iterator[str]:
    """Trained networks that began from other bytes than `pretrained` now leads to."""
    known: dict[Path, str] = {}
    for run in map(params.run, params.all_runs):
        weights = run.training.pretrained
        if not isinstance(weights, str) or not Path(weights).is_file():
            continue
        path = Path(weights)
        for seed in params.seeds:
            began = _inputs(paths.run_file(run.name, seed)).get(f"file {path}")
            if began is not None and path not in known:
                known[path] = file_sha256(path)
            if began not in (None, known.get(path)):
                yield (
                    f"{run.key}: pretrained {path} has changed since {run.name}-{seed} was trained from it, which DVC "
                    f"does not see: run `dvc repro -s -f {run.stage('train', seed)}`"
                )


def changed_adopted(params: Params) -> Iterator[str]:
    """Adopted files that are others than params say. A missing one is no reason to stop while its result is there."""
    known: dict[Path, str] = {}
    for run in map(params.run, params.all_runs):
        for seed in params.seeds:
            declared = run.adopted.get(seed)
            if declared is None or not (path := paths.given_file(declared.file)).is_file():
                continue
            if path not in known:
                known[path] = file_sha256(path)
            if (found := known[path]) != declared.sha256:
                yield (
                    f"{run.key}: adopted {declared.file} is not the file that params.yaml means for seed {seed}: its "
                    f"SHA-256 is {found}, not {declared.sha256}; put that file back, or run `python -m stages.adopt "
                    f"{declared.file} --as {run.name} --seed {seed}` for this one"
                )


def _inputs(file: Path) -> dict[str, str]:
    """Inputs of the training that left this run.json; none where there is no such file, or one of another version.

    That one is no reason to stop: `dvc repro`, before which this is asked, makes it again.
    """
    try:
        return RunRecord.read(file).inputs if file.exists() else {}
    except OtherVersionError:
        return {}
