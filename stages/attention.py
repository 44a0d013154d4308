"""What a pixel took from where: python -m stages.attention RUN-SEED[,RUN-SEED...] PHOTO... [--at X,Y] [--out FOLDER].

For trained networks with sequential cross attention. For each photograph and pixel a page for each task: from where in
the other tasks' maps CTAM gathered, and CSAM in those of coarser scales, and how much each answer changes the
prediction there; and the same numbers as .npz. RUN-SEED and PHOTO are as for stages.predict; videos are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stages._entry import imports, run_stage
from stages.predict import model_folders


def main(models: list[Path], photos: list[Path], at: list[tuple[int, int]], out: Path) -> None:
    """Write pages of attention for photographs."""
    with imports():
        from pipeline.tools.attention import show_attention  # imports torch: once all is read
        from pipeline.tools.predict import predictors_of
        from pipeline.tools.predict_inputs import places

    targets = places(photos, out)
    for page in show_attention(predictors_of(models), targets, at):
        print(page)


def point(text: str) -> tuple[int, int]:
    """`X,Y`: a pixel's column and row."""
    column, _, row = text.partition(",")
    if not (column.isdecimal() and row.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: a pixel is its column and row, such as 320,240")
    return int(column), int(row)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument(
        "models", type=model_folders, metavar="RUN-SEED", help="such as sequential_attention-0; several between commas"
    )
    command.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="a file, or a folder of them")
    command.add_argument(
        "--at",
        type=point,
        action="append",
        default=[],
        metavar="X,Y",
        help="a pixel; several times; default: the middle",
    )
    command.add_argument("--out", type=Path, default=Path("attention"), metavar="FOLDER", help="default: attention")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser(), needs_params=False)
