"""The numbers in README and docs/study.md are those of the files of results beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison.tables import format_table
from pipeline.core import names
from pipeline.results.comparison import Comparison

ROOT = Path(__file__).parents[2]
README, STUDY = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/study.md"))
RESULTS = {
    name: Comparison.read(ROOT / f"docs/study/{name}.json")
    for name in ("rooms", "rooms_as_searched", "ccp", "ccp_edges")
} | {"default": Comparison.read(ROOT / "reports/delta.json")}
PARTS = ("no_cross_attention", "no_attention", "att_alone", "fpma_alone")  # of ccp_edges: a table of their own
INTERVAL = re.compile(r"(−?\d+(?:\.\d+)?) to (−?\d+(?:\.\d+)?)")


def signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def tables(text: str) -> Iterator[list[list[str]]]:
    """Rows of cells below the header of each table, without code marks and emphasis."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = [
            [re.sub(r"[`*]", "", cell).strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()
        ]
        yield lines[2:]


def expected(delta: Comparison, run: str) -> list[str]:
    """Cells of a run: each primary score, Δm, its interval. Those of `single task`: the scores of the baselines."""
    single = {
        task: score
        for name, facts in delta.runs.items()
        if facts.architecture == names.SINGLE_TASK
        for task, score in delta.scores[name].items()
    }
    scores = single if run == "single task" else delta.scores[run]
    cells = [f"{scores[task].mean:.2f} ± {scores[task].std:.2f}" for task in single]
    if run == "single task":
        return [*cells, "0", ""]
    gain = delta.delta_m[run]
    return [*cells, signed(gain.mean, 1), f"{signed(gain.interval.low, 1)} to {signed(gain.interval.high, 1)}"]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (README, "rooms"),
        (README, "ccp_edges"),
        (STUDY, "rooms"),
        (STUDY, "rooms_as_searched"),
        (STUDY, "ccp"),
        (STUDY, "ccp_edges"),
    ],
    ids=["README", "README, photographs", "rooms", "as searched", "ccp", "ccp with edges"],
)
def test_a_table_of_the_study_has_its_numbers(text, result):
    delta = RESULTS[result]
    runs = [run for run in delta.delta_m if run not in PARTS]
    wanted = {run: expected(delta, run) for run in ("single task", *runs)}
    shown = [{row[0]: row[1:] for row in rows} for rows in tables(text)]
    assert any(
        {run: cells[: len(wanted[run])] for run, cells in rows.items() if run in wanted} == wanted for rows in shown
    ), wanted


def test_the_table_of_parts_has_its_numbers():
    delta = RESULTS["ccp_edges"]
    wanted = {
        run: [
            *expected(delta, run), f"{delta.runs[run].parameters / 1e6:.2f} M", f"{delta.runs[run].macs / 1e9:.2f}"
        ]
        for run in ("sequential_attention", *PARTS)
    }  # fmt: skip
    assert any({row[0]: row[2:] for row in rows} == wanted for rows in tables(STUDY)), wanted


def test_every_interval_of_the_study_is_one_that_was_computed():
    known = {
        (signed(gain.interval.low, 1), signed(gain.interval.high, 1))
        for delta in RESULTS.values()
        for gain in delta.delta_m.values()
    }
    quoted = set(INTERVAL.findall("".join(re.findall(r"```\n(.*?)```", STUDY, re.DOTALL))))  # what a command said
    in_words = set(INTERVAL.findall(re.sub(r"```\n.*?```", "", STUDY, flags=re.DOTALL)))
    assert in_words <= known | quoted and len(in_words) > 3


QUOTED = re.compile(
    r"(\S+): .*(?:than|from) (\w+)\b.*?(−?[\d.]+)(?: points of Δm)? \((?:95 % interval )?(−?[\d.]+) to (−?[\d.]+),"
)


def test_every_difference_that_the_study_quotes_is_that_of_its_files():
    """By Student's t over seeds: here images have no part in a paired difference."""
    lines = [line for block in re.findall(r"```\n(.*?)```", STUDY, re.DOTALL) for line in block.splitlines()]
    quoted = [QUOTED.match(line) for line in lines if re.search(r"points of Δm|difference in Δm", line)]
    assert len(quoted) > 8 and all(quoted)
    for run, other, *numbers in (match.groups() for match in quoted):
        wanted = [float(number.replace("−", "-")) for number in numbers]
        wanted[0] = abs(wanted[0])
        rounding = [0.56 * 10.0 ** -len(number.partition(".")[2]) for number in numbers]
        found = [difference(delta, run, other) for delta in RESULTS.values() if {run, other} <= delta.delta_m.keys()]
        assert any((np.abs(np.subtract(each, wanted)) < rounding).all() for each in found), (run, other, wanted, found)


def difference(delta: Comparison, run: str, other: str) -> tuple[float, float, float]:
    """Size of the mean difference of two Δm, and its 95 % interval."""
    gains = [[row.delta for row in delta.per_seed if (row.run, row.task) == (of, "delta_m")] for of in (run, other)]
    differences = np.subtract(*gains)
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return abs(differences.mean()), differences.mean() - half, differences.mean() + half


def test_the_default_ends_with_what_the_readme_shows():
    shown = format_table(RESULTS["default"])
    lines = [line.rstrip() for line in README.splitlines()]
    assert all(line in lines for line in shown.splitlines()), shown
