"""What a clone relies on before any code runs: pins, ranges, licence, telemetry, CI."""

from __future__ import annotations

import ast
import configparser
import hashlib
import os
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pinned = {}
    for line in filter(None, lines):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"not an exact pin: {line}"
        name, _, version = line.partition("==")
        pinned[canonicalize_name(name)] = version
    return pinned


def ranges() -> dict[str, Requirement]:
    texts = [*PROJECT["dependencies"], *(text for each in PROJECT["optional-dependencies"].values() for text in each)]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def test_every_pin_lies_in_its_range():
    assert set(pins()) == set(ranges())
    outside = [name for name, version in pins().items() if not ranges()[name].specifier.contains(version)]
    assert not outside


# What a test is skipped without; its docstring says where it comes from and why it is no requirement.
OPTIONAL = {"pyEdgeEval"}


def test_every_import_is_a_direct_dependency():
    used = set()
    for folder in ("pipeline", "stages", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    used |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    used.add(node.module.partition(".")[0])
    own = {"pipeline", "stages", "tests", "benchmarks"}
    owners = packages_distributions()
    missing = {
        module
        for module in used - own - OPTIONAL - set(sys.stdlib_module_names)
        if not {canonicalize_name(name) for name in owners.get(module, [])} & set(pins())
    }
    assert not missing, f"imported, but not in requirements.txt: {sorted(missing)}"


def test_licence_is_the_verbatim_apache_2():
    text = (ROOT / "LICENSE").read_bytes()
    # The digest of the text that the Apache Software Foundation publishes.
    assert hashlib.sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert PROJECT["license"] == "Apache-2.0"


def test_dvc_does_not_phone_home():
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert config["core"]["analytics"] == "false"


def test_ci_can_be_run():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test", "the log ends with pytest's closing line"
