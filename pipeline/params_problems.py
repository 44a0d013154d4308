"""Reading a YAML file strictly, and telling people what is wrong with it: key, value, what is allowed."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml import YAMLError as RuamelError

from pipeline.errors import ParamsError
from pipeline.names import nearest


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


# -- YAML ----------------------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML libraries keep the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int | float | bool | None):
                raise ParamsError(f"line {line}: a key must be a plain name, not {key!r}")
            if key in seen and key != "<<":
                raise ParamsError(f"line {line}: {key} is given twice (first on line {seen[key]}); keep one")
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises ParamsError when there is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        remedy = "copy one of profiles/*.yaml there, or run in the project's root"
        raise ParamsError(f"{path}: no such file; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read as text: {error}") from error
    try:
        raw = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ParamsError(f"{path}: {where}not YAML: {getattr(error, 'problem', None) or error}") from error
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: must hold keys and values such as `seeds: [0, 1]`, got {raw!r:.60}")
    return raw


def read_otherwise(path: str | Path) -> list[Problem]:
    """Values of a params file that DVC reads as others than `read_yaml` does.

    DVC reads YAML 1.2 by ruamel.yaml: 010 is ten there and eight here, `on` is a word and 1:30 is text. Its choice of
    what to rerun would then be about other values than those that a stage uses. Text that stands for the same number
    is no difference: a number is what becomes of it where one is expected. Raises ParamsError where DVC can't read it.
    """
    try:
        theirs = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except RuamelError as error:
        raise ParamsError(f"{path}: DVC can't read it: {getattr(error, 'problem', None) or error}") from error
    return list(_differences(read_yaml(path), theirs, ()))


def _differences(ours: Any, theirs: Any, loc: tuple) -> Iterator[Problem]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs and isinstance(key, str):
                yield from _differences(value, theirs[key], (*loc, key))
            else:
                yield Problem(_dotted((*loc, str(key))), "not a key that DVC reads as the same; put it in quotes")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(*pair, (*loc, i))
    elif not _same(ours, theirs):
        text = f"{_show(ours)} here and {_show(theirs)} in DVC"
        if isinstance(ours, float) and math.isnan(ours):
            text = "not a number, which DVC takes for changed each time"
        yield Problem(_dotted(loc), f"reads as {text}; write true or false, a plain decimal number, or text in quotes")


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, str) and type(theirs) in (int, float) and re.fullmatch(r"[-+.\deE]+", ours):
        return float(ours) == theirs
    return type(ours) is type(theirs) and ours == theirs


# -- pydantic's errors in plain words ------------------------------------------------------------------------


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
        path = _dotted(loc, prefix)
        if item["type"] == "extra_forbidden":
            yield Problem(path, _unknown_key(loc, keys, prefix))
        elif item["type"] == "missing":
            yield Problem(path, "missing; it must be given")
        else:
            yield Problem(path, _complaint(item))


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
    return text if isinstance(got, dict | BaseModel) else f"got {_show(got)}; {text}"


def _show(value: object) -> str:
    """A value as it stands in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(list(value) if isinstance(value, tuple) else value)


def _dotted(loc: tuple, prefix: str = "") -> str:
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
    section = ".".join("*" if i == 1 and f"{loc[0]}.*" in keys else str(part) for i, part in enumerate(loc[:-1]))
    known = keys.get(section, ())
    if near := nearest(loc[-1], known):
        return f"unknown key; did you mean {_dotted((*loc[:-1], near), prefix)}?"
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
