"""The report as two files that say the same of the same content: report.md and report.html."""

from __future__ import annotations

from pipeline.core import paths
from pipeline.params.schema import Params
from pipeline.report.content import Content
from pipeline.report.markdown import write_markdown
from pipeline.report.page.render import render


def write_report(params: Params) -> None:
    """Write reports/report.md, reports/figures/ and reports/report.html for the runs and seeds of `params`.

    Raises DataError for what is missing, damaged or of other runs.
    """
    content = Content.read(params)
    page = render(content)  # first: what it finds damaged leaves no half of a report
    write_markdown(content)
    with paths.atomic(paths.REPORT_HTML) as file:
        file.write(page)
