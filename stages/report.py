"""DVC stage `report`: reports/report.md and report.html with tables, curves and pictures."""

from __future__ import annotations

from pipeline.core import paths
from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params) -> None:
    """Write reports/report.md, its figures, and reports/report.html, which the comparison's run in MLflow gets too."""
    with imports():
        from pipeline.report.write import write_report
        from pipeline.tracking.comparison_run import keep_report

    write_report(params)
    keep_report(params.experiment, paths.DELTA_JSON, [paths.REPORT_HTML])


if __name__ == "__main__":
    run_stage(main)
