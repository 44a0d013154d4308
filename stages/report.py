"""DVC stage `report`: reports/report.md and report.html with tables, curves and pictures."""

from __future__ import annotations

from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params) -> None:
    """Write reports/report.md, its figures, and reports/report.html."""
    with imports():
        from pipeline.report.write import write_report

    write_report(params)


if __name__ == "__main__":
    run_stage(main)
