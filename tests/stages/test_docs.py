"""The documents name what is there: links, anchors, paths, commands with their options, and make's targets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/*.md", "docs/*.ipynb", "benchmarks/*.md", "data/own/*.md", "findings/*.md", "models/*.md")
DOCUMENTS = sorted(path for place in PLACES for path in ROOT.glob(place))
FOLDERS = ("pipeline/", "stages/", "tests/", "docs/", "profiles/", "benchmarks/")
COMMAND = re.compile(r"python -m (stages|benchmarks|tests)\.(\w+)([^#|&;`\n]*)")
OPTION = re.compile(r"--[a-z][a-z-]*")
MAKE = re.compile(r"(?:^|[\s`])make (?:[A-Z]+=\S+ )*([a-z][a-z-]*)")


def read(path: Path) -> str:
    """A document as Markdown; of a notebook the cells that are Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def parsed(text: str) -> list[Token]:
    """Block tokens and, after each, the inline ones in it."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings: lower case, no punctuation, hyphens for blanks, a number where one repeats."""
    found: dict[str, int] = {}
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            title = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            count = found[slug] = found.get(slug, -1) + 1
            if count:
                found[f"{slug}-{count}"] = 0
    return set(found)


def broken_links(path: Path, text: str) -> Iterator[str]:
    for token in parsed(text):
        target = token.attrGet("href") or token.attrGet("src")
        if not target or re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.is_relative_to(ROOT) or not found.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(text if found == path else read(found)):
            yield f"{target}: no such heading"


def code(text: str) -> list[str]:
    """What stands in backticks and in fences."""
    return [token.content for token in parsed(text) if token.type in ("code_inline", "fence", "code_block")]


def missing_paths(text: str) -> Iterator[str]:
    """`<name>` in a path stands for any name; what the text itself writes by `cat > FILE` is there."""
    written = set(re.findall(r"cat > (\S+)", text))
    for word in " ".join(code(text)).split():
        name = word.strip("`'\"(),;:.").partition("#")[0].partition("::")[0]
        if (
            name.startswith(FOLDERS)
            and name not in written
            and not any(ROOT.glob(re.sub(r"<\w+>", "*", name.rstrip("/"))))
        ):
            yield f"{name}: not there"


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def options(package: str, module: str) -> set[str] | None:
    """The options that a command's file names, or None where there is no such command."""
    files = [ROOT / package / f"{module}.py", ROOT / package / module / "__main__.py"]
    files = [file for file in files if file.exists()]
    shared = [ROOT / "stages/_entry.py"] if package == "stages" else []
    text = "".join(file.read_text(encoding="utf-8") for file in (*files, *shared))
    return set(re.findall(r'"(--[a-z-]+)"', text)) if files else None


def wrong_commands(text: str) -> Iterator[str]:
    for each in code(text):
        for package, module, rest in COMMAND.findall(each):
            known = options(package, module)
            if known is None:
                yield f"python -m {package}.{module}: no such command"
            else:
                yield from (f"{package}.{module} {o}: no such option" for o in OPTION.findall(rest) if o not in known)
        yield from (f"make {name}: no such target" for name in MAKE.findall(each) if name not in targets())


def problems(path: Path, text: str) -> list[str]:
    return [*broken_links(path, text), *missing_paths(text), *wrong_commands(text)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_what_is_there(path: Path):
    found = problems(path, read(path))
    assert not found, "\n".join(found)


def test_every_page_is_linked_from_the_readme():
    links = {token.attrGet("href") for token in parsed(read(ROOT / "README.md"))}
    pages = [path for path in DOCUMENTS if path.parent == ROOT / "docs"]
    assert {f"docs/{path.name}" for path in pages} <= links


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](docs/no.md)", "docs/no.md: no such file"),
        ("![a](docs/no.png)", "docs/no.png: no such file"),
        ("[a](../README.md)", "../README.md: no such file"),
        ("[a](docs/scaling.md#no)", "docs/scaling.md#no: no such heading"),
        ("# A\n\n[a](#b)", "#b: no such heading"),
        ("| a |\n|---|\n| `pipeline/nets/sca.py` |", "pipeline/nets/sca.py: not there"),
        ("`tests/no/test_<name>.py`", "tests/no/test_<name>.py: not there"),
        ("```sh\ncp profiles/no.yaml params.yaml\n```", "profiles/no.yaml: not there"),
        ("`python -m stages.no`", "python -m stages.no: no such command"),
        ("`python -m stages.trace x --no`", "stages.trace --no: no such option"),
        ("`make no N=4`", "make no: no such target"),
    ],
)
def test_what_is_not_there_is_found(text: str, problem: str):
    assert problems(ROOT / "README.md", text) == [problem]


@pytest.mark.parametrize(
    "text",
    [
        "# What `x` does, and 1/4\n## A b\n## A b\n[a](#what-x-does-and-14) [b](#a-b-1) [c](docs/scaling.md#slurm)",
        "`pipeline/tasks/<name>.py`, `docs/scaling.md#slurm`, `tests/stages/test_docs.py::test_x` <https://example.org>",
        "`python -m stages.doctor [--verify] [--fix]`, `make PYTHON=python3.12 repro`\n\nWe make do.",
    ],
)
def test_what_is_there_is_no_problem(text: str):
    assert not problems(ROOT / "README.md", text)
