"""What must hold between `search` and the runs that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.core import names
from pipeline.params.messages import Problem, problems_of, show
from pipeline.params.rules import recipe_and_balancing
from pipeline.params.schema import Balancing, Training, merge
from pipeline.params.search import RELATIVE_GAIN, Entry, Range

if TYPE_CHECKING:
    from pipeline.params.schema import Params

_FIXED = {"validate_every": "every trial is scored as its run is, after each epoch where that says 0 or null"}


def entries_of(params: Params, name: str) -> dict[str, Entry]:
    """The part of `search.space` that run `name` has: options of its architecture, weights of its several tasks."""
    return {key: entry for key, entry in params.search.space.items() if _applies(params, name, key)}


def search_problems(params: Params) -> Iterator[Problem]:
    """Keys and values of `search` that no run could be trained with, for params that are right otherwise."""
    search = params.search
    if search.objective not in (RELATIVE_GAIN, *params.data.tasks):
        allowed = ", ".join((RELATIVE_GAIN, *params.data.tasks))
        yield Problem("search.objective", f"got {search.objective!r}; must be one of {allowed}")
    for key, entry in search.space.items():
        section, _, rest = key.partition(".")
        place = f"search.space.{key}"
        if section not in ("training", "options", "balancing") or not rest:
            text = "unknown key; it must begin with training., options. or balancing., as below runs.<run>"
            yield Problem(place, text)
        elif section == "options":
            yield from _option_problems(params, place, rest, entry)
        elif section == "balancing":
            yield from _balancing_problems(params, place, rest, entry)
        elif rest in _FIXED:
            yield Problem(place, f"can't be searched: {_FIXED[rest]}; take it out")
        elif rest == "epochs" and search.budget is not None:
            yield Problem(place, f"search.budget {search.budget} says how many; set that to null, or take this out")
        else:
            yield from _training_problems(params, key, rest, entry)


def nested(key: str, value: object) -> dict[str, Any]:
    """{a: {b: value}} of a.b."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def _applies(params: Params, name: str, key: str) -> bool:
    run = params.runs[name]
    section, _, rest = key.partition(".")
    if section == "options":
        return rest in names.ARCHITECTURE_OPTIONS[run.architecture]
    if section == "balancing":
        several = len(run.tasks) + len(run.auxiliary_tasks) > 1
        return several and (rest == "method" or rest in names.BALANCING[run.balancing.method])
    if rest.startswith("task_weights."):
        tasks = (*run.tasks, *run.auxiliary_tasks)
        return len(tasks) > 1 and rest.partition(".")[2] in tasks
    return True


def _option_problems(params: Params, place: str, option: str, entry: Entry) -> Iterator[Problem]:
    known = {run.architecture: names.ARCHITECTURE_OPTIONS[run.architecture] for run in params.runs.values()}
    having = {architecture: options[option] for architecture, options in known.items() if option in options}
    if not having:
        every = dict.fromkeys(each for options in known.values() for each in options)
        yield Problem(place, names.unknown("option of these runs", option, every))
    for architecture, choices in having.items():
        allowed = ", ".join(map(show, choices))
        if isinstance(entry, Range):
            yield Problem(place, f"must be a list of choices; {architecture} has {allowed}")
            continue
        typed = {(type(choice), choice) for choice in choices}
        for value in entry:
            if (type(value), value) not in typed:
                yield Problem(place, f"got {show(value)}; {architecture} has {allowed}")


def _balancing_problems(params: Params, place: str, rest: str, entry: Entry) -> Iterator[Problem]:
    if rest == "method":
        odd = (
            [show(entry)] if isinstance(entry, Range) else [show(each) for each in entry if each not in names.BALANCING]
        )
        if odd:
            yield Problem(place, f"got {odd[0]}; must be a list of {', '.join(names.BALANCING)}")
        elif isinstance(entry, tuple):
            yield from _method_problems(params, place, [str(each) for each in entry])
        return
    methods = dict.fromkeys(run.balancing.method for run in params.runs.values())
    having = {method: names.BALANCING[method][rest] for method in methods if rest in names.BALANCING[method]}
    if not having:
        every = dict.fromkeys(option for method in methods for option in names.BALANCING[method])
        yield Problem(place, names.unknown("option of these runs' balancing", rest, every))
    for method, allowed in having.items():
        for value in _probes(entry):
            if isinstance(value, bool) or not isinstance(value, int | float) or not allowed.holds(value):
                yield Problem(place, f"got {show(value)}; {rest} of {method} must be {allowed}")


def _method_problems(params: Params, place: str, methods: list[str]) -> Iterator[Problem]:
    """Methods are tried with their default options, in runs whose recipe takes each of them."""
    if others := [key for key in params.search.space if key.startswith("balancing.") and key != "balancing.method"]:
        text = f"{others[0]} is an option of one method alone; search the method first, then its options"
        yield Problem(place, text)
    for name in (each for each in params.runs if _applies(params, each, "balancing.method")):
        run = params.run(name)
        if run.balancing.options:
            text = f"run {name} has options of {run.balancing.method}, which other methods don't take"
            yield Problem(place, f"{text}; take them out of it")
        for method in methods:
            tried = run.model_copy(update={"balancing": Balancing(method=method)})
            for key, text in recipe_and_balancing(tried):
                if key not in params.search.space:
                    yield Problem(place, f"run {name} can't be balanced by {method}: {key}: {text}")


def _training_problems(params: Params, key: str, rest: str, entry: Entry) -> Iterator[Problem]:
    concerned = [name for name in params.runs if _applies(params, name, key)]
    if not concerned:
        yield Problem(f"search.space.{key}", "none of the runs has several tasks with this one among them; take it out")
    for name in concerned:
        common = merge(params.training.model_dump(), params.runs[name].training)
        for value in _probes(entry):
            override = nested(rest, value)
            try:
                Training.model_validate(merge(common, override))
            except ValidationError as error:
                yield from problems_of(error, Training, prefix="search.space.training", only=override)


def _probes(entry: Entry) -> tuple[object, ...]:
    """Values that stand for all of an entry: those at its ends, and one between, which is whole only if all are."""
    if not isinstance(entry, Range):
        return entry
    low, high, step = entry.low, entry.high, entry.step
    return (low, high) if entry.whole else (low, low + (step or (high - low) / 3), high)
