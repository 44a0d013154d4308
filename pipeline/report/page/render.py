"""The page itself: sections filled into page.html.j2, which escapes all that it is given."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.comparison import published
from pipeline.core.names import SINGLE_TASK
from pipeline.evaluation.scoring import finite_or_none
from pipeline.report import tables, texts
from pipeline.report.content import Content
from pipeline.report.curves import ABOUT
from pipeline.report.page.attention import attention
from pipeline.report.page.classes import class_sections
from pipeline.report.page.examples import chosen_panels, shared_panels
from pipeline.report.page.gains import gain_charts
from pipeline.report.page.images import image_gains
from pipeline.report.page.scores import score_table
from pipeline.report.page.sources import sources
from pipeline.report.page.training import gain_chart, training_charts
from pipeline.visual import figures
from pipeline.visual.charts import key
from pipeline.visual.svg import RUN_STYLES

_FOLDER = Path(__file__).parent
_INLINE = re.compile(r"`([^`]*)`|\*\*(.+?)\*\*")
_SIGNS = {"better": "▲", "worse": "▼", "not distinguishable": "≈"}


def render(content: Content) -> str:
    """The whole page. The same content gives the same bytes: no time, no machine, no order of a set is in it."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"inline": inline, "minus": minus, "drawn": Markup}
    params, delta = content.params, content.delta
    return environment.get_template("page.html.j2").render(
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8") + _run_colours()),  # of ours alone
        experiment=params.experiment,
        info=content.info,
        introduction=texts.introduction(content, "means over seeds, with 95 % intervals"),
        verdicts=_verdicts(content),
        legend=[(name, key(i), _kind(content, name)) for i, name in enumerate(content.results)],
        scores=score_table(content),
        cost=texts.COST,
        below_trivial=list(texts.below_trivial(params, content.tasks, delta, finite_or_none(content.trivial))),
        trivial=list(texts.trivial_notes(content)),
        label_counts=tables.label_counts(content),
        metrics=tables.all_metrics(content),
        gains=gain_charts(content),
        gain_text=texts.GAIN,
        gain_table=tables.gain_table(content),
        caveats=delta.caveats,
        certainty=tables.certainty_table(content),
        certainty_text=texts.CERTAINTY,
        training=training_charts(content),
        gain_by_step=gain_chart(content),
        gain_by_step_text=ABOUT,
        classes=class_sections(content),
        flagship=content.flagship,
        first_seed=params.seeds[0],
        chosen=chosen_panels(content),
        shared=shared_panels(content),
        attention=attention(content),
        attention_texts=(texts.ATTENTION, texts.ATTENTION_WORTH),
        images=image_gains(content),
        published=tables.published_table(content),
        published_texts=(tables.published_about(), published.PROTOCOL),
        sources=sources(content),
    )


def inline(text: str) -> Markup:
    """Markdown in a line, `code` and **strong**, as HTML; all else is escaped."""
    parts, end = [], 0
    for found in _INLINE.finditer(text):
        parts.append(escape(text[end : found.start()]))
        code, strong = found.groups()
        parts.append(
            Markup("<strong>{}</strong>").format(inline(strong)) if strong else Markup("<code>{}</code>").format(code)
        )
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def minus(text: str) -> str:
    """Numbers with a minus sign for a hyphen."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def _verdicts(content: Content) -> list[tuple[str, str, str]]:
    """(verdict, sign, sentence) of every run with a Δm, the best first."""
    gains = {run: gain for run, gain in content.delta.delta_m.items() if run in content.results}
    order = sorted(gains, key=lambda run: -gains[run].mean)  # stable: of equals the first of params
    return [
        (gains[run].verdict or "unknown", _SIGNS.get(gains[run].verdict or "", "?"), content.conclusion(run) or run)
        for run in order
    ]


def _kind(content: Content, run: str) -> str:
    architecture = content.params.all_runs[run].architecture
    return "single task" if architecture == SINGLE_TASK else architecture


def _run_colours() -> str:
    """Rules that give each run its colour, on a light page and on a dark one."""
    light, dark = (
        "".join(f".run{i}{{color:{colour}}}" for i, colour in enumerate(colours[:RUN_STYLES]))
        for colours in (figures.PALETTE, figures.DARK_PALETTE)
    )
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n"
