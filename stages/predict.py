"""A trained network on photographs of your own: python -m stages.predict RUN-SEED PHOTO... [--out FOLDER].

For each photograph a folder of its name with, for each task, <task>.npy (class indices, metres, unit vectors or
probabilities, at the photograph's size) and <task>.png to look at. params.yaml still has to describe the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.params import Params
from stages._entry import imports, run_stage


def main(params: Params, model: tuple[str, int], photos: list[Path], out: Path) -> None:
    with imports():
        from pipeline.prediction import Predictor, predict_photos  # imports torch: once params are known to be right

    for folder in predict_photos(Predictor(params, *model), photos, out):
        print(folder)


def run_and_seed(text: str) -> tuple[str, int]:
    """`pair-0`, or models/pair-0 as a shell completes it."""
    name, _, seed = Path(text).name.rpartition("-")
    if not (name and seed.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form <run>-<seed>, as the folders in models are")
    return name, int(seed)


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("model", type=run_and_seed, metavar="RUN-SEED", help="such as multi_task-0")
    command.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    command.add_argument("--out", type=Path, default=Path("predictions"), metavar="FOLDER", help="default: predictions")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser())
