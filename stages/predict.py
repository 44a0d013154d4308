"""A trained network on photographs of your own: python -m stages.predict RUN-SEED PHOTO... [--out FOLDER].

For each photograph a folder of its name with, for each task, <task>.npy (class indices, metres, unit vectors or
probabilities, at the photograph's size) and <task>.png to look at. RUN-SEED names a folder in models, or is the path of
such a folder anywhere: its weights.safetensors and run.json are all that is needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.core import paths
from stages._entry import imports, run_stage


def main(model: Path, photos: list[Path], out: Path) -> None:
    """Write predictions for photographs."""
    with imports():
        from pipeline.tools.predict import Predictor, places, predict_photos  # imports torch: once arguments are read

    targets = places(photos, out)
    for folder in predict_photos(Predictor(model), targets):
        print(folder)


def model_folder(text: str) -> Path:
    """`pair-0` in models, or the path of a model's folder, as a shell completes it."""
    path = Path(text)
    if path.is_dir() or len(path.parts) > 1:
        return path
    name, _, seed = text.rpartition("-")
    if not (name and seed.isdigit()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form <run>-<seed>, as the folders in models are, nor the path of such a folder"
        )
    return paths.MODELS / text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("model", type=model_folder, metavar="RUN-SEED", help="such as multi_task-0, or a path")
    command.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    command.add_argument("--out", type=Path, default=Path("predictions"), metavar="FOLDER", help="default: predictions")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser(), needs_params=False)
