"""Trained networks as files to keep and share: python -m stages.export RUN-SEED[,RUN-SEED...] [--to KIND] [--out PATH].

RUN-SEED names a folder in models, or is the path of such a folder anywhere.
folder: model.safetensors, config.json and MODEL_CARD.md, which `pipeline.load_model` opens. More: docs/models.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import ParamsError
from stages._entry import imports, run_stage
from stages.predict import model_folders

KINDS = ("folder",)


def main(models: list[Path], to: str, out: Path | None) -> None:
    """Export networks."""
    if out and len(models) > 1:
        raise ParamsError(f"--out names one place, and {len(models)} networks are to be exported: leave it out")
    with imports():
        from pipeline.tools.export.folder import export_folder  # imports torch
        from pipeline.tools.export.trained import read_trained

    for folder in models:
        trained = read_trained(folder)
        print(export_folder(trained, out or paths.EXPORTS / trained.config.name))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument(
        "models", type=model_folders, metavar="RUN-SEED", help="such as multi_task-0, or a path; several between commas"
    )
    command.add_argument("--to", choices=KINDS, default=KINDS[0], metavar="KIND", help=f"{', '.join(KINDS)}")
    command.add_argument("--out", type=Path, metavar="PATH", help="default: in exports, by the network's name")
    return command


if __name__ == "__main__":
    run_stage(main, parser=parser(), needs_params=False)
