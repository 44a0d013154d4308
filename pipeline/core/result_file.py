"""JSON files of results as dataclasses with a version: the one reader and the one writer of all of them.

What they hold, and their versions, stand in `pipeline/results`, on which stages depend. Here they are only checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.core import paths
from pipeline.core.errors import DataError, OtherVersionError

VERSION = "version"
"""The key of a file's version, its first."""

_SHOWN = 80  # characters of a value that a message holds
_BESIDE = "beside"
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}  # kept, since to make one takes milliseconds
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def beside(other: str) -> Any:
    """A field that is left out of the file where `other` is, and otherwise written even if it is None."""
    return field(default=None, metadata={_BESIDE: other})


@dataclass(frozen=True)
class ResultFile:
    """What a file says: a subclass has its keys as fields, which may hold dataclasses too.

    version: of the keys and what they mean; it grows by one with every change of these. stage: the DVC stage that
    writes the file; None where there is one a run, whose name depends on where the run is declared. A field whose
    default is None is left out of the file where it is None.
    """

    version: ClassVar[int]
    stage: ClassVar[str | None] = None
    # Holds for the dataclasses inside too.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, path: Path, stage: str | None = None) -> Self:
        """Read what `write` wrote. stage: the one to run where the file is not good, as `evaluate@<run>-<seed>`.

        Raises OtherVersionError for a file of another version, or of none, and DataError as `paths.read_json` does and
        for keys or values that no stage of this version writes: one line with the file and the remedy.
        """
        remedy = f"run `{' '.join(filter(None, ('dvc repro', stage or cls.stage)))}`"
        content = paths.read_json(path, missing=f"{remedy} first")
        version = content.pop(VERSION, None)
        if type(version) is not int or version != cls.version:
            raise OtherVersionError(
                f"{path} is of {_version(version)}, this code reads version {cls.version}; {remedy} to write it anew, "
                "or read a file from elsewhere with the code that wrote it"
            )
        try:
            read: Self = _adapter(cls).validate_json(json.dumps(content))
        except ValidationError as error:
            fault = _fault(error, content)
            raise DataError(
                f"{path} {fault}: no stage of this version wrote that; {remedy}, or get it again from where it came"
            ) from None
        return read

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all, with its version and a checksum. Raises OSError."""
        paths.write_json(path, {VERSION: self.version, **_plain(self)})


def _adapter(of: type[Any]) -> TypeAdapter[Any]:
    if of not in _ADAPTERS:
        _ADAPTERS[of] = TypeAdapter(of)
    return _ADAPTERS[of]


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value) if _is_written(value, each)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _is_written(record: Any, own: Field[Any]) -> bool:
    if own.default is not None or getattr(record, own.name) is not None:
        return True
    other = own.metadata.get(_BESIDE)
    return other is not None and getattr(record, other) is not None


def _version(found: object) -> str:
    return "no version" if found is None else f"version {_shown(found)}"


def _fault(error: ValidationError, content: dict[str, Any]) -> str:
    """What is wrong with the content, without the file's name: first of all what it lacks, which says most."""
    faults = error.errors(include_url=False)
    if lacks := [each["loc"] for each in faults if each["type"] == "missing"]:
        return f"lacks {', '.join('.'.join(map(str, place)) for place in lacks)}"
    if unknown := [each["loc"] for each in faults if each["type"] in _UNKNOWN]:
        return f"has what is unknown: {', '.join('.'.join(map(str, place)) for place in unknown)}"
    place = _place(faults[0]["loc"], content)
    fault = [each for each in faults if _place(each["loc"], content) == place][-1]  # of int and float the wider
    reason = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"says {place} = {_shown(fault['input'])} ({reason})" if place else f"contradicts itself ({reason})"


def _place(parts: Sequence[int | str], content: Any) -> str:
    """The dotted way to a value, without the names of types that pydantic adds where it tried several."""
    found = []
    for part in parts:
        inside = (
            content.keys() if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
        )
        if part not in inside:
            break
        found.append(str(part))
        content = content[part]
    return ".".join(found)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
