"""reports/report.md: what was measured, as tables, curves and pictures, out of the files that the stages wrote."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.comparison import published
from pipeline.core import paths, removal
from pipeline.evaluation.panels import painting_contexts, panel_indices
from pipeline.evaluation.scoring import finite_or_none
from pipeline.report import cells, tables, texts
from pipeline.report.attention import attention_section
from pipeline.report.content import Content
from pipeline.report.curves import curves_section
from pipeline.report.tables import Table
from pipeline.visual import figures


def write_markdown(content: Content) -> None:
    """Write reports/report.md and reports/figures/."""
    removal.remove(paths.FIGURES, paths.REPORTS)
    paths.FIGURES.mkdir(parents=True)
    sections = [
        f"# {content.params.experiment}: multi-task performance\n",
        texts.introduction(content, "mean ± standard deviation over seeds") + _label_counts(content),
        "## Scores\n\n" + _scores(content),
        _gain_section(content),
        _certainty_section(content),
        _published_section(content),
        "## Pictures\n\n" + "\n".join(_pictures(content)),
        attention_section(content),
        "## Training\n\n" + curves_section(content),
        "## Every metric\n\n" + _all_metrics(content),
        "## The trivial predictor\n\n" + _trivial_notes(content),
    ]
    with paths.atomic(paths.REPORT) as file:
        file.write("\n".join(section.rstrip() + "\n" for section in sections if section))


def _table(table: Table) -> str:
    return cells.table(table.head, [[cell.replace("|", r"\|") for cell in row] for row in table.rows])


def _label_counts(content: Content) -> str:
    table = tables.label_counts(content)
    return f"\n\n{_table(table)}" if table else ""


def _scores(content: Content) -> str:
    sentences = texts.below_trivial(content.params, content.tasks, content.delta, finite_or_none(content.trivial))
    below = "".join(f"\n- {sentence}" for sentence in sentences)
    return f"{_table(tables.score_table(content))}\n\n{texts.COST}" + (f"\n{below}" if below else "")


def _gain_section(content: Content) -> str:
    delta = content.delta
    caveats = "".join(f"\n- {caveat}" for caveat in delta.caveats)
    table = tables.gain_table(content)
    if table is None:
        return f"## Gain over the single-task baselines\n\nNo run has a Δm.\n{caveats}" if caveats else ""
    figures.save(figures.gains(delta.scores, delta.delta_m), paths.FIGURES / "gains.png")
    text = f"## Gain over the single-task baselines\n\n{texts.GAIN}\n\n{_table(table)}"
    return f"{text}{caveats}\n\n![Gain by task; of Δm with its 95 % interval](figures/gains.png)"


def _certainty_section(content: Content) -> str:
    sentences = "".join(f"- {sentence}\n" for sentence in content.delta.conclusions)
    table = _table(tables.certainty_table(content))
    return f"## How sure this is\n\n{sentences}\n{table}\n\n{texts.CERTAINTY}"


def _published_section(content: Content) -> str:
    table = tables.published_table(content)
    if table is None:
        return ""
    return f"## Published results\n\n{tables.published_about()}\n\n{published.PROTOCOL}\n\n{_table(table)}"


def _pictures(content: Content) -> Iterable[str]:
    """One panel for each kept sample: the baselines share a column, each multi-task run has one; first seed."""
    tasks, scored = content.tasks, content.scored
    shown = [scored[i] for i in panel_indices(len(scored), content.params.evaluation.panels)]
    contexts = painting_contexts(content.info, tasks, shown)
    single = content.trained_baselines
    for sample in shown:
        columns = {"single task": content.predictions_of(single, sample.id)} if single else {}
        columns |= {
            name: content.predictions_of([name], sample.id) for name in content.params.all_runs if name not in single
        }
        file = paths.FIGURES / f"panel-{sample.id}.png"
        figures.save(figures.panel(sample, columns, tasks, contexts), file)
        yield cells.picture(f"Sample {sample.id}", f"figures/{file.name}")


def _all_metrics(content: Content) -> str:
    """For each task its protocol and a table of every metric by run, per-class scores folded away."""
    parts = []
    for task in tables.all_metrics(content):
        parts.append(f"### {task.title}\n\n{task.protocol}\n\n{_table(task.plain)}")
        if task.classes:
            parts.append(f"<details><summary>by class</summary>\n\n{_table(task.classes)}\n\n</details>")
    return "\n\n".join(parts)


def _trivial_notes(content: Content) -> str:
    about = "The best constant prediction, learned from the training labels; what any network has to beat."
    return "\n".join([about, *(f"- {note}" for note in texts.trivial_notes(content))])
