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
from ruamel.yaml.error import YAMLError as RuamelError

from pipeline.core.errors import ParamsError
from pipeline.core.names import nearest
from pipeline.params.types import UNFIT


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


_MAX_BYTES = 1 << 18  # params.yaml has 10 kB; PyYAML reads no more than this in a second or two
_MAX_DEPTH = 20
_SHOWN = 200  # characters of a wrong value in a message
_MAX_VALUES = 20_000  # with every alias written out
_OCTAL = re.compile(r"[-+]?0[0-9_]+$")
_KINDS = ("map", "seq", "str", "null", "bool", "int", "float", "merge")
_MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses what YAML libraries take without a word, or end in a traceback for.

    A key given twice, text that is no such number, dates, numbers that YAML 1.1 reads in base 8 or 60, tags of other
    types, control characters, aliases that stand for more than any memory holds, and depth.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        line = self.peek_event().start_mark.line + 1
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ParamsError(f"line {line}: nested more than {_MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag.rpartition(":")[2] not in _KINDS or not node.tag.startswith("tag:yaml.org,2002:"):
            if node.tag == "tag:yaml.org,2002:timestamp":
                raise _at(node, f"{_short(node.value)} is a date in YAML; write text in quotes")
            raise _at(node, f"the tag {_short(node.tag)} is not known; leave it out")
        kind = node.tag.rpartition(":")[2]
        if not isinstance(node, {"map": yaml.MappingNode, "seq": yaml.SequenceNode}.get(kind, yaml.ScalarNode)):
            raise _at(node, f"what has the tag !!{kind} must be {_TYPES[kind]}")
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            raise _at(node, f"{_short(node.value)} can't be read as {_TYPES[kind]}") from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise _at(key_node, f"a key must be a plain name, not {_short(key)}")
            if key in seen:
                raise _at(key_node, f"{key} is given twice (first on line {seen[key]}); keep one")
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


_TYPES = {
    "map": "keys and values", "seq": "a list", "str": "text", "null": "null", "bool": "true or false",
    "int": "a whole number", "float": "a number", "merge": "the merge key <<",
}  # fmt: skip


def _check_scalar(node: yaml.ScalarNode) -> None:
    """Raise ParamsError for text with control characters and for numbers that mean another to people."""
    if found := UNFIT.search(node.value):
        raise _at(node, f"{_short(node.value)} has the control character U+{ord(found[0]):04X}; take it out")
    if node.style is None and node.tag.endswith((":int", ":float")):
        base = 60 if ":" in node.value else 8 if _OCTAL.match(node.value) else 10
        if base != 10:
            raise _at(node, f"{_short(node.value)} is a number in base {base} in YAML; write text in quotes")


def _at(node: yaml.Node, text: str) -> ParamsError:
    return ParamsError(f"line {node.start_mark.line + 1}: {text}")


def _short(value: object) -> str:
    """A value in a message: quoted, one line, not long."""
    text = ascii(value) if UNFIT.search(str(value)) else repr(value)
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"


def _check_size(root: yaml.Node) -> None:
    """Raise ParamsError where aliases stand for themselves, or for more values than any such file has."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise _at(node, "an alias stands for what it is part of")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            below = [] if isinstance(node, yaml.ScalarNode) else node.value
            pairs = isinstance(node, yaml.MappingNode)
            sizes[id(node)] = 1 + sum(size(each) for item in below for each in (item if pairs else (item,)))
            open_nodes.remove(id(node))
        if sizes[id(node)] > _MAX_VALUES:
            raise _at(node, f"more than {_MAX_VALUES:,} values, aliases written out")
        return sizes[id(node)]

    size(root)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises ParamsError, in one line, when there is none."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ParamsError(f"{path}: larger than {_MAX_BYTES >> 10} kB, so it is another file")
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        remedy = "copy one of profiles/*.yaml there, or run in the project's root"
        raise ParamsError(f"{path}: no such file; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read as text: {error}") from error
    try:
        raw = _load(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ParamsError(f"{path}: line {line}: not YAML: the control character U+{error.character:04X}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ParamsError(f"{path}: {where}not YAML: {_printable(problem)}") from error
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: must hold keys and values such as `seeds: [0, 1]`, got {_short(raw)}")
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


def _load(text: str) -> Any:
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _printable(text: str) -> str:
    return UNFIT.sub(lambda found: f"U+{ord(found[0]):04X}", text)


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
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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
