"""Which models timm has, read from its source: importing timm imports torch, which takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pipeline.core import names

_REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)", re.MULTILINE)
_DEPRECATED = re.compile(r"^register_model_deprecations\((.*?)^\}\)", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"['\"](\w+)['\"]\s*:")


def backbone_problem(name: str) -> str | None:
    """What is wrong with a backbone's name, if anything; tags of weights (`model.tag`) are not looked at."""
    model = name.partition(".")[0]
    if model in models():
        return None
    near = names.nearest(model, sorted(models()))
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown backbone {name!r}; {hint}Allowed: what timm.list_models() lists"


@cache
def models() -> frozenset[str]:
    """The names of timm's models, those that it has renamed included."""
    spec = find_spec("timm")
    assert spec is not None and spec.origin is not None, "timm is among the requirements"
    found: set[str] = set()
    for file in (Path(spec.origin).parent / "models").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        found.update(_REGISTERED.findall(text))
        for block in _DEPRECATED.findall(text):
            found.update(_KEY.findall(block))
    return frozenset(found)
