"""Trained networks as files to keep and share: python -m stages.export RUN-SEED[,RUN-SEED...] [--to KIND] [--out PATH].

RUN-SEED names a folder in models, or is the path of such a folder anywhere. KIND:
folder  model.safetensors, config.json and MODEL_CARD.md, which `pipeline.load_model` opens
onnx    for ONNX Runtime and others; takes onnx, onnxscript and onnxruntime
pt2     for torch.export.load, with torch alone
mlflow  logged to the MLflow run of the training and registered, for mlflow.pytorch.load_model
onnx and pt2 take images of the sizes that are printed, and refuse others. More: docs/models.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.core.errors import ParamsError
from stages._entry import imports, run_stage
from stages.predict import model_folders

KINDS = ("folder", "onnx", "pt2", "mlflow")


def main(models: list[Path], to: str, out: Path | None) -> None:
    """Export networks."""
    if out and len(models) > 1:
        raise ParamsError(f"--out names one place, and {len(models)} networks are to be exported: leave it out")
    if out and to == "mlflow":
        raise ParamsError("--to mlflow writes to MLflow's store alone: leave --out out")
    with imports():
        from pipeline.tools.export.files import export_to  # imports torch
        from pipeline.tools.export.trained import read_trained

    for folder in models:
        if to == "mlflow":
            from pipeline.tools.export.mlflow_model import export_mlflow  # imports mlflow

            print(export_mlflow(read_trained(folder)))
            continue
        place, sizes = export_to(read_trained(folder), to, out)
        print(place)
        if sizes:
            print(f"  takes images of {sizes}{f': {sizes.why_fixed}' if sizes.why_fixed else ''}")


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
