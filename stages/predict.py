"""Trained networks on photographs and videos of your own: python -m stages.predict RUN-SEED[,RUN-SEED...] PHOTO...

PHOTO is a picture, a folder of pictures, a video, or - for one picture from stdin. For each there is a folder of its
name without the ending (`stdin` for -), and in it a folder for each network. Of a picture that holds <task>.npy (class
indices, metres, unit vectors or probabilities, at the picture's size), <task>.png to look at, and depth.16bit.png, in
millimetres; and overview.png shows all networks and tasks on a page with the keys of their colours. Of a video (.mp4,
.avi, .mov, .mkv, .webm) it holds <task>.mp4 to look at; its raw values are not written.

RUN-SEED names a folder in models, or is the path of such a folder anywhere: its weights.safetensors and run.json are
all it takes. It may be a folder that stages.export wrote, or models:/NAME@ALIAS, which it registered in MLflow.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Literal

from pipeline.core import paths
from stages._entry import imports, run_stage


def main(models: list[Path], photos: list[Path], out: Path, tta: Literal["flip"] | None) -> None:
    """Write predictions for photographs and videos."""
    with imports():
        from pipeline.tools.predict import predict_photos, predictors_of  # imports torch: once all is read
        from pipeline.tools.predict_inputs import places

    targets = places(photos, out)
    for folder in predict_photos(predictors_of(models), targets, tta):
        print(folder)


def model_folders(text: str) -> list[Path]:
    """What is said between commas, each as `model_folder` has it."""
    return [model_folder(text)] if os.path.isdir(text) else [model_folder(each) for each in text.split(",")]


def model_folder(text: str) -> Path:
    """`pair-0` in models, or the path of a model's folder, as a shell completes it."""
    path = Path(text)
    if text and (os.path.isdir(text) or len(path.parts) > 1):
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
    command.add_argument(
        "models", type=model_folders, metavar="RUN-SEED", help="such as multi_task-0, or a path; several between commas"
    )
    command.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO", help="a picture, a folder of them, a video, or -"
    )
    command.add_argument(
        "--tta", choices=["flip"], help="flip: average each prediction with that of the mirror image; twice the time"
    )
    command.add_argument("--out", type=Path, default=Path("predictions"), metavar="FOLDER", help="default: predictions")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser(), needs_params=False)
