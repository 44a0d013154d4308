"""DVC stage `report`: reports/report.md with its tables, curves and pictures."""

from __future__ import annotations

from pipeline.params.schema import Params
from stages._entry import imports, run_stage


def main(params: Params) -> None:
    """Write reports/report.md and its figures."""
    with imports():
        from pipeline.report.markdown import write_report

    write_report(params)


if __name__ == "__main__":
    run_stage(main)
