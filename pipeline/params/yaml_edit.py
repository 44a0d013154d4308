"""Setting values in the text of a YAML file: comments, order and layout of all the rest stay byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.core.errors import ParamsError
from pipeline.params.messages import dotted, show
from pipeline.params.yaml_file import parse_yaml

Path = tuple[str, ...]

_WORD = re.compile(r"[A-Za-z_][\w./-]*")


def set_values(text: str, values: Mapping[Path, Any], origin: str = "params.yaml") -> str:
    """The text with each value at its path, in place where one stands there, else added to the nearest section.

    A comment behind a value keeps its column where there is room. Raises ParamsError where the text can't be edited so
    that all else reads as before: where the section is an alias of another, say.
    """
    for path, value in values.items():
        expected = _unshared(parse_yaml(text))
        _put(expected, path, value)
        try:
            edited = _set_value(text, path, value)
            read = parse_yaml(edited)
        except (ParamsError, yaml.YAMLError, AssertionError):
            read = None
        if read != expected:
            raise ParamsError(
                f"{origin}: {dotted(path)} can't be set to {show(value)} in place (an alias, or an unusual layout): "
                "write it there by hand"
            )
        text = edited
    return text


def written(value: object) -> str:
    """A scalar, or a mapping of such in braces, as YAML 1.1 and 1.2 both read it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{scalar(key)}: {written(each)}' for key, each in value.items())}}}"
    return scalar(value)


def scalar(value: object) -> str:
    """A value as YAML 1.1 and 1.2 both read it."""
    if value is None or isinstance(value, bool):
        return show(value)
    if isinstance(value, int | float):
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else text
    text = str(value)
    plain = _WORD.fullmatch(text) and yaml.safe_load(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)


def _unshared(value: Any) -> Any:
    """A copy in which nothing is in two places, as the aliases of a file make it."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for key in path[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[path[-1]] = value


def _set_value(text: str, path: Path, value: Any) -> str:
    node: yaml.Node | None = yaml.compose(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader)
    start = len(text) - len(text.removeprefix("\ufeff"))
    for depth, key in enumerate(path):
        assert isinstance(node, yaml.MappingNode)
        child = next((below for name, below in node.value if name.value == key), None)
        if child is None or (isinstance(child, yaml.ScalarNode) and depth + 1 < len(path)):
            rest = path[depth + 1 :]
            entry = written(value)
            if child is None and depth == 0 and len(rest) == 1:  # a new section, with a line for each entry
                return _added(text, start, node, f"{scalar(key)}:\n  {scalar(rest[0])}: {entry}")
            for name in reversed(rest):
                entry = f"{{{scalar(name)}: {entry}}}"
            if child is not None:  # an empty section: `training:` with nothing behind it
                return _replaced(text, start, child, entry)
            return _added(
                text, start, node, f"{scalar(key)}: {entry}", unfold=depth == 1 and isinstance(value, Mapping)
            )
        node = child
    assert node is not None
    return _replaced(text, start, node, written(value))


def _replaced(text: str, start: int, node: yaml.Node, written: str) -> str:
    begin, end = start + node.start_mark.index, start + _end(node)
    before, old, behind = text[:begin], text[begin:end], text[end:]
    if not old and not before.endswith((" ", "\t")):
        before += " "
    if (blanks := re.match(r" +(?=#)", behind)) and "\n" not in old:
        width = max(1, len(blanks[0]) + len(old) - len(written))
        behind = " " * width + behind[len(blanks[0]) :]
    return before + written + behind


def _added(text: str, start: int, node: yaml.MappingNode, line: str, unfold: bool = False) -> str:
    """The text with one more entry at the end of a mapping.

    unfold: an empty mapping in braces becomes one with a line for each entry, where nothing but a comment follows it.
    """
    begin, end = start + node.start_mark.index, start + node.end_mark.index
    if unfold and node.flow_style and not node.value:
        behind, separator, below = text[end:].partition("\n")
        if not behind.strip() or behind.lstrip().startswith("#"):
            ending = "\r\n" if behind.endswith("\r") else "\n"
            room = " " * (end - begin) if behind.strip() else ""  # the comment keeps its column
            return f"{(text[:begin] + room + behind).rstrip()}{ending}  {line}{ending if separator else ''}{below}"
    if node.flow_style:
        inside = text[begin + 1 : end - 1]
        gap = len(inside) - len(inside.rstrip()) if node.value else 0
        at = end - 1 - gap
        return f"{text[:at]}{', ' if node.value else ''}{line}{text[at:]}"
    at = text.find("\n", start + _end(node))
    indent = " " * node.value[0][0].start_mark.column
    if at < 0:
        return f"{text}\n{indent}{line}\n"
    ending = "\r\n" if text[at - 1] == "\r" else "\n"
    line = line.replace("\n", ending + indent)
    return f"{text[: at + 1]}{indent}{line}{ending}{text[at + 1 :]}"


def _end(node: yaml.Node) -> int:
    """Where the last value of a mapping ends, without the blank lines and comments behind it."""
    while isinstance(node, yaml.MappingNode | yaml.SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node.end_mark.index
