"""Validate params.yaml, in about a second, and sum it up: python -m stages.check [--params FILE].

With --record it is the DVC stage `check`, on which all others follow: it prints warnings alone, and writes a file that
is always the same.

What a table of names can't tell is tried: a network with a backbone or an output stride that is none of the usual ones
is built without data, which takes some seconds, since it imports torch.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.balancing.make import lacking_packages
from pipeline.comparison.baselines import recipe_differences
from pipeline.core import dvc_lock, names, paths
from pipeline.core.errors import DataError, ParamsError
from pipeline.params.messages import Problem, tell
from pipeline.params.rules import missing_files
from pipeline.params.schema import Params, ResolvedRun
from pipeline.params.timm_names import backbone_problem
from pipeline.params.yaml_file import read_yaml
from pipeline.tools import dvc_orphans
from pipeline.tools.changed_sources import refuse_unseen
from stages._entry import run_stage


def main(params: Params, file: str, record: bool = False) -> None:
    """Print a summary of valid params, and what is allowed but probably not meant. record: as DVC's stage."""
    if missing := missing_keys(Path(file), paths.GRAPH):
        raise ParamsError(
            f"{file}: dvc.yaml names {', '.join(missing)}, which it lacks; see profiles/ for their values"
        )
    dvc_lock.stages()  # what a kill left of DVC's own files is named before DVC stumbles over it
    dvc_orphans.check()
    if Path(file) == paths.PARAMS:  # what is trained here was trained from that file
        refuse_unseen(params)
    if params.evaluation.split != "val":
        from pipeline.datasets.folder import check_has_split  # imports much; no other dataset has more splits

        check_has_split(Path(params.data.folder), params.evaluation.split)
    if record and params.data.dataset == "folder" and not Path(params.data.folder).is_dir():
        raise DataError(f"data.folder: {params.data.folder} is not there; put your data there (docs/datasets.md)")
    if described := own_description(params):
        read_own_dataset(params)
    problems = [*missing_files(params), *backbone_problems(params), *balancing_problems(params)]
    if not problems and described is not False:
        problems = list(network_problems(params))
    if problems:
        raise ParamsError(tell(file, problems))
    if record:
        paths.write_json(paths.CHECKED, {"valid": True})
    else:
        print("\n".join(summary(params, file)))
    for warning in warnings(params):
        print(f"warning: {warning}")


def summary(params: Params, file: str) -> Iterator[str]:
    """What would be trained, a line a run."""
    seeds = ", ".join(map(str, params.seeds))
    runs = [params.run(name) for name in params.all_runs]
    adopted = sum(bool(run.adopted) for run in runs)
    trainings = (len(runs) - adopted) * len(params.seeds)
    yield f"{file} is valid: {params.data.dataset}, tasks {', '.join(params.data.tasks)}"
    threads = " or ".join(dict.fromkeys(_or_null(run.training.cpu_threads) for run in runs))
    given = f" ({adopted} adopted)" if adopted else ""
    yield (
        f"{len(runs)} runs{given} x {len(params.seeds)} seeds ({seeds}) = {trainings} trainings; cpu_threads {threads}"
    )
    width = max(len(run.name) for run in runs)
    for run in runs:
        extra = f" + {', '.join(run.auxiliary_tasks)}" if run.auxiliary_tasks else ""
        recipe = f"{run.training.backbone}, {run.training.epochs} epochs, lr {run.training.lr:g}"
        recipe = f"{run.training.backbone}, adopted, trained elsewhere" if run.adopted else recipe
        recipe += f", balanced by {run.balancing}" if run.balancing.method != names.FIXED else ""
        start = "; starts from single_task" if run.from_single_task else ""
        yield f"  {run.name:{width}}  {run.architecture}: {', '.join(run.tasks)}{extra}; {recipe}{start}"


def own_description(params: Params) -> bool | None:
    """Whether data.folder holds a dataset.yaml; None where it needs none."""
    return (Path(params.data.folder) / "dataset.yaml").is_file() if params.data.dataset == "folder" else None


def read_own_dataset(params: Params) -> None:
    """Raise DataError for a dataset.yaml that is wrong, or lacks a task that is asked for."""
    from pipeline.datasets.folder import resolve  # imports SciPy and Pillow

    resolve(paths.RAW, params.data)


# Backbones that every architecture takes with its usual output stride: the tests build them all.
USUAL_BACKBONES = ("hrnet_w18_small", "hrnet_w18_small_v2", "resnet18", "tf_efficientnet_lite0")
USUAL_STRIDE = 32


def backbone_problems(params: Params) -> Iterator[Problem]:
    """Backbones that timm does not know."""
    for run in map(params.run, params.all_runs):
        if text := backbone_problem(run.training.backbone):
            own = "backbone" in params.all_runs[run.name].training
            yield Problem(f"{run.key}.training.backbone" if own else "training.backbone", text)


def network_problems(params: Params) -> Iterator[Problem]:
    """Networks that can't be built, or trained on the part of a batch that a step is given."""
    unusual = [run for run in map(params.run, params.all_runs) if not is_usual(run)]
    if not unusual:
        return
    from pipeline.evaluation.cost import dataset_info  # imports torch
    from pipeline.evaluation.dry_run import check_network

    info = dataset_info(params.data)
    for run in unusual:
        try:
            check_network(run, info)
        except ParamsError as error:
            yield Problem(run.key, str(error).removeprefix(f"run {run.name}: "))


def balancing_problems(params: Params) -> Iterator[Problem]:
    """Balancing methods whose packages are not installed."""
    for run in map(params.run, params.all_runs):
        if lacking := lacking_packages(run.balancing.method):
            text = f"{run.balancing.method} needs {' and '.join(lacking)}: pip install -r requirements.txt brings them"
            yield Problem(f"{run.key}.balancing.method", text)


def is_usual(run: ResolvedRun) -> bool:
    """Whether nothing about the run's network needs to be tried."""
    recipe = run.training
    usual = recipe.backbone in USUAL_BACKBONES and recipe.output_stride == USUAL_STRIDE
    return usual and recipe.batch_size > recipe.accumulate


def missing_keys(file: Path, graph: Path) -> list[str]:
    """What the graph names and the file lacks. The stages have defaults for some of it; DVC refuses to start.

    Raises ParamsError for a graph that is no YAML, or lacks its stages.
    """
    if not graph.exists():
        return []
    stages = read_yaml(graph).get("stages")
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise ParamsError(f"{graph}: holds no stages: it is damaged; put it back with `git checkout {graph}`")
    named = set(re.findall(r"\$\{([\w.]+)\}", graph.read_text(encoding="utf-8")))
    for stage in stages.values():
        named |= {each for each in stage.get("params", ()) if isinstance(each, str) and "$" not in each}
    tree = read_yaml(file)
    return sorted(name for name in named if not name.startswith("item.") and not _has(tree, name.split(".")))


def _has(tree: object, keys: Sequence[str]) -> bool:
    return not keys or (isinstance(tree, dict) and keys[0] in tree and _has(tree[keys[0]], keys[1:]))


def warnings(params: Params) -> Iterator[str]:
    """What is valid, but probably not meant."""
    runs = [params.run(name) for name in params.all_runs]
    for run in runs:
        if run.architecture != names.SINGLE_TASK:
            for task in run.tasks:
                yield from baseline_warnings(run, task, runs, params.evaluation.allow_different)
        size, weights = run.training.input_size, run.training.pretrained
        if any(side % 32 for side in size):
            yield f"{run.key}: backbones work at multiples of 32, so input_size {list(size)} is enlarged first"
        for seed in params.seeds:
            if seed in run.adopted and not paths.given_file(file := run.adopted[seed].file).is_file():
                yield f"{run.key}: adopted {file} of seed {seed} is not there; its weights can't be made without it"
        if isinstance(weights, str) and not Path(weights).is_file():
            yield f"{run.key}: pretrained {weights} is not there yet"
    if own_description(params) is False:
        yield f"data.folder: {params.data.folder} holds no dataset.yaml yet, so it was not checked"
    for task in params.data.tasks:
        if not any(task in run.all_tasks for run in runs):
            yield f"data.tasks: no run uses {task}"
    for name in params.tuned.keys() - params.runs.keys():
        yield f"tuned.{name}: {names.unknown('run', name, params.runs)}"


def baseline_warnings(run: ResolvedRun, task: str, runs: list[ResolvedRun], allowed: tuple[str, ...]) -> Iterator[str]:
    """Whether `compare` will find a fair baseline for one task of a multi-task run."""
    every = [other for other in runs if other.architecture == names.SINGLE_TASK and other.tasks == (task,)]
    baselines = [other for other in every if bool(other.adopted) == bool(run.adopted)] or every
    if not baselines:
        yield f"{run.key}: no single-task run of {task}, so no multi-task performance (Δm)"
        return
    found = {other.name: recipe_differences(run, other, allowed) for other in baselines}
    fair = [other for other in baselines if not found[other.name]]
    ours = run.training.cpu_threads
    if fair and all(other.training.cpu_threads != ours for other in fair):
        pair = f"{_or_null(ours)} against {_or_null(fair[0].training.cpu_threads)} in {fair[0].name}"
        yield f"{run.key}: cpu_threads {pair}: on a CPU sums round otherwise, and scores differ as by seed"
    if not fair:
        listed = "; ".join(f"{name}: {', '.join(differences)}" for name, differences in found.items())
        yield f"{run.key}: compare will refuse every {task} baseline: {listed}"


def _or_null(value: int | None) -> str:
    return "null" if value is None else str(value)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--params", dest="file", default=str(paths.PARAMS), metavar="FILE")
    command.add_argument(
        "--record", action="store_true", help="print warnings alone and write data/checked.json, for DVC"
    )
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser())
