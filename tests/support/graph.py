"""A project whose stages DVC finds unchanged, until something is edited: nothing in it was trained."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import yaml
from dvc.repo import Repo

from tests.support.project import ROOT, Project

SEEDS = [0]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text()) | {
    "seeds": SEEDS,
    "runs": {
        "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
        "normals": {"architecture": "single_task", "tasks": ["normals"]},
        "sca": {
            "architecture": "sequential_attention", "tasks": ["semseg", "normals"],
            "options": {"fpma_mask": "channels"}, "training": {"lr": 4.0e-3},
        },
    },
    "runs_from_single_task": {"stitched": {"architecture": "cross_stitch", "tasks": ["semseg", "normals"]}},
    "tuned": {},
}  # fmt: skip


def remembered(parse: Callable[..., object]) -> Callable[..., object]:
    """DVC's reader of YAML, which reads the same text once: it would read params.yaml for each stage, for seconds."""
    known: dict[str, bytes] = {}  # pickled, since whoever gets it may change it, and copy.deepcopy is slow

    def call(text: str, path: str, typ: str = "safe") -> object:
        if typ != "safe":
            return parse(text, path, typ)
        if text not in known:
            known[text] = pickle.dumps(parse(text, path))
        return pickle.loads(known[text])

    return call


class Graph:
    """A project whose stages DVC finds unchanged, until something is edited."""

    def __init__(self, root: Path):
        self.project = Project(root, PARAMS)
        self.root = root
        self.repo = Repo(str(root))
        self.record()

    def record(self) -> None:
        """Give every stage the outs that it lacks, and have DVC record it."""
        self.project.stage("selection")
        self.project.stage("adoption")
        with self.repo.lock:
            self.repo._reset()
        for stage in self.repo.index.stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                if not path.exists():
                    if path.suffix:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text("{}" if path.suffix == ".json" else "epoch,loss\n")
                    else:
                        path.mkdir(parents=True)
        self.repo.commit(force=True)

    def params(self) -> dict:
        return yaml.safe_load((self.root / "params.yaml").read_text())

    def write_params(self, params: dict) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def reruns(self) -> set[str]:
        """The stages that `dvc repro` would run, for what they depend on themselves."""
        self.repo._reset()
        return set(self.repo.status())
