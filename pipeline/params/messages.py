"""Telling people what is wrong with a file of values: key, value, what is allowed."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from pipeline.core.names import nearest


class Problem(NamedTuple):
    """What is wrong with the value at the dotted `path`."""

    path: str
    text: str


def tell(origin: str, problems: list[Problem]) -> str:
    """One message for all problems of the file `origin`."""
    unique = list(dict.fromkeys(f"{path}: {text}" for path, text in problems))
    if len(unique) == 1:
        return f"{origin}: {unique[0]}"
    return "\n  ".join([f"{origin}: {len(unique)} problems", *unique])


def problems_of(
    error: ValidationError, model: type[BaseModel], prefix: str = "", only: dict | None = None
) -> Iterator[Problem]:
    """The problems in a ValidationError of `model`, with paths under `prefix`.

    only: tell just the problems of values that this mapping holds (a run's overrides over the common recipe).
    """
    keys = dict(_known_keys(model))
    for item in error.errors(include_url=False):
        loc = tuple(part for part in item["loc"] if part != "[key]")
        if only is not None and not _holds(only, loc):
            continue
        path = dotted(loc, prefix)
        if item["type"] == "extra_forbidden":
            yield Problem(path, _unknown_key(loc, keys, prefix))
        elif item["type"] == "missing":
            yield Problem(path, "missing; it must be given")
        else:
            yield Problem(path, _complaint(item))


_SHOWN = 200  # characters of a wrong value in a message
_PLAIN = {
    "Input should": "must",
    "Tuple should": "must",
    "Dictionary should": "must",
    "String should": "must",
    "Value should": "must",
    " after validation": "",
    "a valid tuple": "a list, such as [a, b]",
    "a valid dictionary": "keys and values",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
}


def _complaint(item: Any) -> str:
    text = item["msg"].removeprefix("Value error, ")
    if text.startswith("unknown "):  # names the value itself
        return text
    for theirs, plain in _PLAIN.items():
        text = text.replace(theirs, plain)
    text = text.partition(", unable to parse")[0].partition(" or instance of")[0]
    got = item["input"]
    return text if isinstance(got, dict | BaseModel) else f"got {show(got)}; {text}"


def show(value: object) -> str:
    """A value as it stands in YAML, not too long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def dotted(loc: tuple, prefix: str = "") -> str:
    """A place in a file: runs.depth.tasks[0]."""
    path = prefix
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _holds(tree: Any, loc: tuple) -> bool:
    """Whether the mapping says something about `loc`: about the value itself, or a part of it."""
    for part in loc:
        if not isinstance(tree, dict):
            return True
        if part not in tree:
            return False
        tree = tree[part]
    return True


def _unknown_key(loc: tuple, keys: dict[str, tuple[str, ...]], prefix: str) -> str:
    section = ""
    for part in loc[:-1]:
        own, any_of = (f"{section}.{each}".lstrip(".") for each in (part, "*"))
        section = any_of if any_of in keys else own
    known = keys.get(section, ())
    if near := nearest(loc[-1], known):
        return f"unknown key; did you mean {dotted((*loc[:-1], near), prefix)}?"
    elsewhere = [f"{other}.{loc[-1]}".lstrip(".") for other, members in keys.items() if loc[-1] in members]
    hint = f"did you mean {elsewhere[0].replace('*', '<run>')}? " if elsewhere and not prefix else ""
    return f"unknown key; {hint}Known here: {', '.join(known)}"


def _known_keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every section below `model` with its keys; a mapping of sections counts as one section named `*`."""
    yield path, tuple(model.model_fields)
    for name, field in model.model_fields.items():
        below = f"{path}.{name}".lstrip(".")
        annotation = field.annotation
        if typing.get_origin(annotation) is dict:
            annotation, below = typing.get_args(annotation)[1], f"{below}.*"
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            yield from _known_keys(annotation, below)
