"""What must hold between values of params.yaml that are each right alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.core import names
from pipeline.params.messages import Problem

if TYPE_CHECKING:
    from pipeline.params.schema import Params, ResolvedRun, Run


def cross_problems(params: Params) -> list[Problem]:
    """Problems of the dataset and of each run as it is written."""
    available = names.DATASET_TASKS[params.data.dataset]
    problems = [
        Problem("data.tasks", f"{params.data.dataset} has no {task} labels; it has {', '.join(available)}")
        for task in params.data.tasks
        if task not in available
    ]
    if params.data.archive is not None and params.data.dataset in names.WITHOUT_ARCHIVE:
        problems.append(Problem("data.archive", f"{params.data.dataset} comes from no archive; set it to null"))
    if params.evaluation.split == "test" and params.data.dataset not in names.WITH_TEST_SPLIT:
        text = f"got 'test'; {params.data.dataset} has no test split, only train and val: set it to val"
        problems.append(Problem("evaluation.split", text))
    declared = {
        f"{family}.{name}": run for family in names.RUN_FAMILIES for name, run in getattr(params, family).items()
    }
    for place, run in declared.items():
        problems += [Problem(f"{place}.{key}", text) for key, text in _run_problems(run, params.data.tasks)]
        problems += [Problem(f"{place}.{key}", text) for key, text in _adoption_problems(place, run)]
        every = run.training.get("validate_every", params.training.validate_every)
        if not run.adopted and params.evaluation.select_on is not None and every in (None, 0):
            text = f"{str(every).lower().replace('none', 'null')} leaves evaluation.select_on no epochs to choose from"
            problems.append(Problem(f"{place}.training.validate_every", f"{text}; give 1 or more"))
    return problems


def _run_problems(run: Run, packed: tuple[str, ...]) -> list[tuple[str, str]]:
    problems = []
    for key in ("tasks", "auxiliary_tasks"):
        for task in getattr(run, key):
            if task not in packed:
                problems.append((key, f"{task} is not in data.tasks ({', '.join(packed)}); add it there"))
    for task in sorted(set(run.tasks) & set(run.auxiliary_tasks)):
        problems.append(("auxiliary_tasks", f"{task} is in tasks too; take it out of one of them"))

    fewest, most = names.TASK_COUNT[run.architecture]
    count = len(run.tasks) + len(run.auxiliary_tasks)
    if count < fewest or (most is not None and count > most):
        allowed = f"exactly {fewest}" if most == fewest else f"{fewest} or more"
        problems.append(("tasks", f"{run.architecture} takes {allowed}, auxiliary ones too; got {count}"))
    elif count == 1 and "task_weights" in run.training:
        text = f"{run.tasks[0]} alone has no other loss to balance, so its weight is 1; remove it (lr scales its steps)"
        problems.append(("training.task_weights", text))

    known = names.ARCHITECTURE_OPTIONS[run.architecture]
    for option, value in run.options.items():
        if option not in known:
            problems.append(("options", names.unknown(f"option of {run.architecture}", option, known)))
        elif not any(_is_choice(value, choice) for choice in known[option]):
            allowed = ", ".join(str(choice).lower() for choice in known[option])
            problems.append((f"options.{option}", f"got {value!r}; must be one of {allowed}"))
    problems += _balancing_problems(run, count)
    return problems


def _balancing_problems(run: Run, count: int) -> Iterator[tuple[str, str]]:
    method, options = run.balancing.method, run.balancing.options
    if count == 1 and method != names.FIXED:
        yield "balancing", f"{run.tasks[0]} alone has nothing to balance; remove it"
    known = names.BALANCING[method]
    for option, value in options.items():
        if option not in known:
            yield "balancing", names.unknown(f"option of {method}", option, known)
        elif not known[option].holds(value):
            yield f"balancing.{option}", f"got {value:g}; must be {known[option]}"


def _adoption_problems(place: str, run: Run) -> Iterator[tuple[str, str]]:
    """What can't be of a run whose weights are those of a checkpoint."""
    if run.adopted and not place.startswith(f"{names.RUN_FAMILIES[0]}."):
        yield "adopted", f"these runs start from trained networks and are trained; move it to {names.RUN_FAMILIES[0]}"
    if run.adopted and run.balancing.method != names.FIXED:
        yield "balancing", f"got {run.balancing.method}; an adopted run is not trained here: remove it"


def missing_files(params: Params) -> Iterator[Problem]:
    """Adopted runs that have no file for one of the seeds; apart, since files are adopted one after the other."""
    for name, run in params.runs.items():
        if run.adopted and (lacking := [seed for seed in params.seeds if seed not in run.adopted]):
            yield Problem(
                f"runs.{name}.adopted",
                f"no file for seed {', '.join(map(str, lacking))} of seeds; `python -m stages.adopt FILE --as {name} "
                f"--seed {lacking[0]}` adopts one, or take {'it' if len(lacking) == 1 else 'them'} out of seeds",
            )


def _is_choice(value: object, choice: object) -> bool:
    """Whether a value is this choice: of its type too, since Python takes True for 1; 0 stands for 0.0."""
    return value == choice and (type(value) is type(choice) or (type(value) is int and isinstance(choice, float)))


def recipe_problems(params: Params) -> Iterator[Problem]:
    """Batches that can't be split in `accumulate` equal parts, and steps that can't be balanced as asked for.

    For params that are right otherwise.
    """
    for run in map(params.run, params.all_runs):
        for key, text in recipe_and_balancing(run):
            yield Problem(f"{run.key}.{key}", text)
        size, parts = run.training.batch_size, run.training.accumulate
        if size % parts:
            own = {"batch_size", "accumulate"} & params.all_runs[run.name].training.keys()
            place = f"{run.key}.training" if own else "training"
            text = f"{parts} equal parts of batch_size {size} are not possible; give a number that divides it"
            yield Problem(f"{place}.accumulate", text)


def recipe_and_balancing(run: ResolvedRun) -> Iterator[tuple[str, str]]:
    """(key below the run, what is wrong with it) where a balancing method can't go with the recipe."""
    method, recipe = run.balancing.method, run.training
    if method in names.TWO_BATCHES and recipe.accumulate % 2:
        text = f"{method} compares the gradients of two halves of a batch; give an even number, such as 2"
        yield "training.accumulate", f"got {recipe.accumulate}; {text}"
    if method == "famo" and recipe.accumulate > 1:
        yield "training.accumulate", f"got {recipe.accumulate}; famo looks at the losses of a whole batch: give 1"
    if method in names.BY_GRADIENTS and recipe.compile:
        text = (
            f"{method} goes back through the network once a task, which torch.compile lets nobody do; set it to false"
        )
        yield "training.compile", f"got true; {text}"
    if method in names.NO_CUDA_GRAPH and recipe.cuda_graph is True:
        yield "training.cuda_graph", f"got true; {method} makes the host wait, so set it to auto or false"


# -- runs that start from trained single-task networks -------------------------------------------------------

# What must be the same for the weights of a single-task network to fit a larger one, and to mean the same there.
FITTING = ("backbone", "output_stride", "hrnet_upsampling", "normalization")
HEAD = names.ARCHITECTURE_OPTIONS[names.SINGLE_TASK]["head"][0]  # the one that encoder-fusion networks have


def single_task_sources(params: Params, name: str) -> dict[str, str]:
    """{task: the run in `runs` whose network the run `name` starts from}, for valid params."""
    run = params.run(name)
    return {task: _candidates(params, run, task)[0][0] for task in run.all_tasks}


def source_problems(params: Params) -> Iterator[Problem]:
    """What keeps `runs_from_single_task` from having one network to start from for each task.

    Only for params that are right otherwise: training values are merged here.
    """
    for name, declared in params.runs_from_single_task.items():
        place = f"runs_from_single_task.{name}"
        if name in params.runs:
            yield Problem(place, "runs has this name too; rename one of them")
        elif declared.architecture not in names.FROM_SINGLE_TASK:
            allowed = ", ".join(names.FROM_SINGLE_TASK)
            text = f"{declared.architecture} can't start from single-task networks; allowed: {allowed}. Move it to runs"
            yield Problem(f"{place}.architecture", text)
        else:
            run = params.run(name)
            for task in run.all_tasks:
                key = "tasks" if task in run.tasks else "auxiliary_tasks"
                if problem := _source_problem(task, *_candidates(params, run, task)):
                    yield Problem(f"{place}.{key}", problem)


def _source_problem(task: str, fitting: list[str], others: dict[str, list[str]]) -> str | None:
    if len(fitting) > 1:
        return f"runs has several networks of {task} to start from, {', '.join(fitting)}; keep one of them"
    if not fitting:
        found = "".join(f" ({other}: {', '.join(why)})" for other, why in others.items())
        return f"runs has no single_task run of {task} to start from{found}; add one, or move this run to runs"
    return None


def _candidates(params: Params, run: ResolvedRun, task: str) -> tuple[list[str], dict[str, list[str]]]:
    """Single-task runs of a task: those whose weights fit, and for the others {name: why not}."""
    fitting, others = [], {}
    for name, declared in params.runs.items():
        if declared.architecture == names.SINGLE_TASK and declared.tasks == (task,):
            single = params.run(name)
            pairs = {key: (getattr(single.training, key), getattr(run.training, key)) for key in FITTING}
            pairs["options.head"] = (single.options.get("head", HEAD), HEAD)
            if why := [f"{key} {has}, not {needed}" for key, (has, needed) in pairs.items() if has != needed]:
                others[name] = why
            else:
                fitting.append(name)
    return fitting, others
