"""Reading a YAML file strictly, and as DVC reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError as RuamelError

from pipeline.core.errors import ParamsError
from pipeline.params.messages import Problem, dotted, show
from pipeline.params.types import UNFIT

_MAX_BYTES = 1 << 18  # params.yaml has 10 kB; PyYAML reads no more than this in a second or two
_MAX_DEPTH = 20
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
    return parse_yaml(text, path)


def parse_yaml(text: str, path: str | Path = "params") -> dict[str, Any]:
    """The mapping that a text holds, as `read_yaml` reads it from the file `path`. Raises ParamsError, in one line."""
    try:
        raw = _load(text.removeprefix("\ufeff"))
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
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ParamsError(f"{path}: {line}DVC can't read it: {problem}; put text with a colon in quotes") from error
    return list(_differences(read_yaml(path), theirs, ()))


def _differences(ours: Any, theirs: Any, loc: tuple) -> Iterator[Problem]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs and isinstance(key, str):
                yield from _differences(value, theirs[key], (*loc, key))
            else:
                yield Problem(dotted((*loc, str(key))), "not a key that DVC reads as the same; put it in quotes")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(*pair, (*loc, i))
    elif not _same(ours, theirs):
        text = f"{show(ours)} here and {show(theirs)} in DVC"
        if isinstance(ours, float) and math.isnan(ours):
            text = "not a number, which DVC takes for changed each time"
        yield Problem(dotted(loc), f"reads as {text}; write true or false, a plain decimal number, or text in quotes")


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
