"""What MLflow's page of a run says at its top, in Markdown: what it is worth, its scores, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

from pipeline.results.comparison import DELTA_M, Comparison, Gain, Row, Score

_MOST = 4000  # characters of a table: MLflow cuts a description after 8,000, some stores after 5,000
_MARKUP = str.maketrans({each: f"\\{each}" for each in "\\`*_{}[]<>()#+!|~"})  # names of runs hold some of these


def describe_run(delta: Comparison, run: str, seed: int, run_id: str, picture: str | None = None) -> str:
    """The page of one trained run: its sentence, if it has a Δm, its scores beside its baselines', its predictions.

    run_id: in MLflow. picture: the artifact that shows predictions, if there is one.
    """
    facts, rows = delta.runs[run], [row for row in delta.per_seed if (row.run, row.seed) == (run, seed)]
    seeds = sorted({row.seed for row in delta.per_seed if row.run == run})
    sentence = conclusion_of(delta, run)
    parts = [] if sentence is None else [f"**{_plain(sentence)}**"]  # first: MLflow folds what is long
    parts.append("\n".join(_table(rows, delta.scores[run], delta.delta_m.get(run), len(seeds))))
    what = f"{facts.architecture} on {facts.backbone}, seed {seed} of {', '.join(map(str, seeds))}"
    parts.append(_plain(f"{what}: {facts.parameters / 1e6:.2f} M parameters, {facts.macs / 1e9:.2f} GMAC an image."))
    users = [other for other in delta.delta_m if any(of.baseline_run == run for of in delta.scores[other].values())]
    if users:
        parts.append(_plain(f"A baseline of {', '.join(users)}."))
    if picture is not None:
        query = urlencode({"path": picture, "run_uuid": run_id})
        parts.append(f"![image, then label and prediction of each task](get-artifact?{query})")
    parts.append(f"`python -m stages.trace reports/metrics/{run}-{seed}.json` says what made these numbers.")
    return "\n\n".join(parts)


def describe_comparison(delta: Comparison, table: str) -> str:
    """The page of a comparison: the sentences on its runs, the table that the terminal showed, and what each run costs.

    What would make it longer than stores take is left out: of the sentences, which come first, the costs and the table.
    """
    runs = _plain(", ".join(delta.delta_m) or "no run with baselines for all its tasks")
    head = f"Δm of {runs}. Its children are the runs that were compared."
    said = [*delta.conclusions, *(f"* {caveat}" for caveat in delta.caveats)]
    sentences = [f"- {_plain(line.removeprefix('* '))}" for line in said]
    while len("\n".join(sentences)) > _MOST / 2:
        sentences = [*sentences[:-2], "- more in the artifact report.html"]
    costs = list(_costs(delta))
    if len("\n".join([*sentences, *costs])) > _MOST / 2:
        costs = ["What each run costs is in the artifact report.html."]
    lines = [line for line in table.splitlines() if line not in said]  # long ones would stretch the page
    while len("\n".join([*lines, *sentences, *costs])) > _MOST:
        lines = [*lines[:-2], "... the rest is in the artifact delta.json"]
    parts = [[head], ["```", *lines, "```"], sentences, costs]
    return "\n\n".join("\n".join(part) for part in parts if part)


def conclusion_of(delta: Comparison, run: str) -> str | None:
    """The sentence on a run's Δm; None for a run that has no Δm."""
    return dict(zip(delta.delta_m, delta.conclusions, strict=True)).get(run)


def _costs(delta: Comparison) -> Iterator[str]:
    """What an image costs in each run."""
    yield "| run | network | parameters M | GMAC an image | activations MiB |"
    yield "|---|---|---:|---:|---:|"
    for run, facts in delta.runs.items():
        network = _plain(f"{facts.architecture}, {facts.backbone}")
        costs = f"{facts.parameters / 1e6:.2f} | {facts.macs / 1e9:.2f} | {facts.activation_bytes / 2**20:.1f}"
        yield f"| {_plain(run)} | {network} | {costs} |"


def _table(rows: list[Row], scores: dict[str, Score], gain: Gain | None, seeds: int) -> Iterator[str]:
    yield f"| task | this seed | mean of {seeds} | its baseline | Δ % |"
    yield "|---|---:|---:|---:|---:|"
    for row in rows:
        if row.task == DELTA_M:
            continue
        of = scores[row.task]
        arrow = "↑" if of.higher_is_better else "↓"
        mean = _number(of.mean) + ("" if of.std is None else f" ± {_number(of.std, like=of.mean)}")
        cells = [_number(row.score), mean, _number(row.baseline), _signed(row.delta)]
        yield " | ".join([f"| {_plain(row.task)} {_plain(of.metric)} {arrow}", *cells]) + " |"
    own = next((row.delta for row in rows if row.task == DELTA_M), None)
    if gain is not None:
        within = f" ({gain.interval.low:+.1f} to {gain.interval.high:+.1f})" if gain.interval else ""
        yield f"| **Δm %** | **{_signed(own)}** | **{gain.mean:+.2f}**{within} | | |"


def _number(value: float | None, like: float | None = None) -> str:
    """Two digits for percentages and degrees, four for metres; empty without a value."""
    if value is None:
        return ""
    return f"{value:.{2 if abs(value if like is None else like) >= 10 else 4}f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _plain(text: str) -> str:
    """Text as Markdown that shows it as it is."""
    return text.translate(_MARKUP)
