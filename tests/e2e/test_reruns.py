"""What each kind of edit reruns, by the real DVC and the real graph: exactly what it must.

A repository in which every out exists, empty, and is recorded (`dvc commit`): DVC then compares dependencies as it does
after real work, and no network has to be trained to see which stages it would run. `selection` is run for real. What
follows from the outs of a stage that reran is DVC's own work; test_pipeline.py shows it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dvc.utils import strictyaml
from dvc.utils.serialize import _yaml

from pipeline.core.paths import atomic
from pipeline.datasets.packing_inputs import _folder_digest
from pipeline.tools.doctor import half_written
from tests.support.graph import PARAMS, SEEDS, Graph, remembered

pytestmark = pytest.mark.e2e


def stages(work: str, *runs: str, seeds: list[int] = SEEDS) -> set[str]:
    kind = "" if set(runs) <= set(PARAMS["runs"]) else "_from_single_task"
    return {f"{work}{kind}@{run}-{seed}" for run in runs for seed in seeds}


RUNS = tuple(PARAMS["runs"])
TRAIN = stages("train", *RUNS) | stages("train", "stitched")
EVALUATE = stages("evaluate", *RUNS) | stages("evaluate", "stitched")
SOURCES = {f"single_task_weights@stitched-{seed}" for seed in SEEDS}
LOOKED = SOURCES | {"adoption"}  # at all of `runs`; what they write stays the same for the others
TABLES = {"compare", "report"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Iterator[Graph]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("reruns")
        patch.chdir(root)
        for module in (_yaml, strictyaml):  # of params, and of dvc.yaml and dvc.lock
            patch.setattr(module, "parse_yaml", remembered(module.parse_yaml))
        yield Graph(root)


@pytest.fixture
def edited(graph) -> Iterator[Graph]:
    """The project, which is afterwards as it was."""
    before = {path: path.read_bytes() for path in files()}
    yield graph
    for path in files():
        if path not in before:
            path.unlink()
    for path, content in before.items():
        if not path.exists() or path.read_bytes() != content:
            path.unlink(missing_ok=True)  # DVC makes outs read-only, and may have linked them
            path.write_bytes(content)


def files() -> list[Path]:
    """What a person or a stage may edit."""
    places = [Path(name).rglob("*") for name in ("pipeline", "stages", "data", "models")]
    found = [path for place in places for path in place if path.is_file() and path.suffix != ".pyc"]
    return [*found, Path("params.yaml"), Path("dvc.lock")]


# -- edits ---------------------------------------------------------------------------------------------------

Edit = Callable[[Graph], None]


def param(key: str, value: object) -> Edit:
    """Set a value of params.yaml; ... removes the key."""

    def edit(graph: Graph) -> None:
        params = graph.params()
        *parents, last = key.split(".")
        tree = params
        for parent in parents:
            tree = tree.setdefault(parent, {})
        if value is ...:
            del tree[last]
        else:
            tree[last] = value
        graph.write_params(params)

    return edit


def default(key: str, value: object) -> Edit:
    def edit(graph: Graph) -> None:
        path = Path("pipeline/params/defaults.yaml")
        defaults = yaml.safe_load(path.read_text())
        *parents, last = key.split(".")
        tree = defaults
        for parent in parents:
            tree = tree[parent]
        assert tree[last] != value
        tree[last] = value
        path.write_text(yaml.safe_dump(defaults))

    return edit


def code(name: str) -> Edit:
    def edit(graph: Graph) -> None:
        path = Path(name)
        path.write_text(path.read_text() + "\n# another\n")

    return edit


def new(name: str, content: str = "another") -> Edit:
    def edit(graph: Graph) -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)

    return edit


def link(graph: Graph) -> None:
    """A link to a file, whose content DVC hashes; those to folders are refused (tests/core/test_dvc_hashing.py)."""
    Path("data/own/images").mkdir(exist_ok=True)
    Path("data/own/images/1.png").symlink_to((graph.root / "params.yaml").resolve())


def renamed(graph: Graph) -> None:
    params = graph.params()
    params["runs"] = {"other" if name == "sca" else name: run for name, run in params["runs"].items()}
    graph.write_params(params)


def comment(graph: Graph) -> None:
    path = Path("params.yaml")
    path.write_text("# a comment\n" + path.read_text())


ALL_RUNS = TRAIN | EVALUATE | SOURCES | TABLES
PREPARE = {"prepare"}
Edits = dict[str, tuple[Edit, set[str]]]
UNSEEN: Edits = {
    "a comment": (comment, set()),
    "checkpoint_minutes": (param("checkpoint_minutes", 1.0), set()),
    "the search": (param("search.space", {"training.lr": {"low": 1e-4, "high": 1e-2}}), set()),
    "a default of the search": (default("search.trials", 5), set()),
}
VALUES: Edits = {  # and `check` each time
    "experiment": (param("experiment", "other"), {"compare", "report"}),
    "data.limit": (param("data.limit", 5), PREPARE),
    "data.rooms.seed": (param("data.rooms.seed", 5), PREPARE),
    "data.dataset": (param("data.dataset", "folder"), {"download", "prepare"}),
    "training.lr": (param("training.lr", 1e-5), ALL_RUNS),
    "training.augmentation.flip": (param("training.augmentation.flip", 0.0), ALL_RUNS),
    "a run's lr": (
        param("runs.sca.training.lr", 1e-5), stages("train", "sca") | stages("evaluate", "sca") | LOOKED | TABLES,
    ),
    "a run's option": (
        param("runs.sca.options.fpma_mask", "tasks"),
        stages("train", "sca") | stages("evaluate", "sca") | LOOKED | TABLES,
    ),
    "a run's balancing": (
        param("runs.sca.balancing", {"method": "cagrad"}),
        stages("train", "sca") | stages("evaluate", "sca") | LOOKED | TABLES,
    ),
    "a run's auxiliary task": (
        param("runs_from_single_task.stitched.auxiliary_tasks", []),
        stages("train", "stitched") | stages("evaluate", "stitched") | SOURCES | TABLES,
    ),
    "evaluation.batch_size": (param("evaluation.batch_size", 3), EVALUATE),
    "evaluation.edge_nms": (param("evaluation.edge_nms", True), EVALUATE),
    "evaluation.panels": (param("evaluation.panels", 1), EVALUATE | {"report"}),
    "evaluation.select_on": (param("evaluation.select_on", "train_holdout"), {"selection", "report"}),
    "evaluation.allow_different": (param("evaluation.allow_different", ["epochs"]), {"compare"}),
    "a seed more": (
        param("seeds", [0, 2]),
        {f"{work}@{run}-2" for run in RUNS for work in ("train", "evaluate")}
        | {f"{work}_from_single_task@stitched-2" for work in ("train", "evaluate")}
        | {"single_task_weights@stitched-2"} | TABLES,
    ),
    "another seed": (
        param("seeds", [2]),
        {f"{work}@{run}-2" for run in RUNS for work in ("train", "evaluate")}
        | {f"{work}_from_single_task@stitched-2" for work in ("train", "evaluate")}
        | {"single_task_weights@stitched-2"} | TABLES,
    ),
    "a run more": (
        param("runs.deep", {"architecture": "multi_task", "tasks": ["semseg", "normals"]}),
        {f"{work}@deep-{seed}" for work in ("train", "evaluate") for seed in SEEDS}
        | LOOKED | TABLES,
    ),
    "a run renamed": (
        renamed, {f"{work}@other-{seed}" for work in ("train", "evaluate") for seed in SEEDS} | LOOKED | TABLES,
    ),
    "a run removed": (param("runs.sca", ...), LOOKED | TABLES),
    "a run's value removed": (
        param("runs.sca.training", ...), stages("train", "sca") | stages("evaluate", "sca") | LOOKED | TABLES,
    ),
    # defaults
    "a default of data": (default("data.rooms.train", 5), PREPARE),
    "the default archive": (default("data.archive", "x.tgz"), {"download", "prepare"}),
    "a default of training": (default("training.precision", "float32"), ALL_RUNS),
    "a default of augmentation": (default("training.augmentation.rotation", 5.0), ALL_RUNS),
    "a new default of training": (lambda graph: new_default("training", "novel"), ALL_RUNS),
    "a default of evaluation": (default("evaluation.edge_nms", True), EVALUATE),
    "the default select_on": (default("evaluation.select_on", "train_holdout"), {"selection", "report"}),
    "the default of what may differ": (default("evaluation.allow_different", ["epochs"]), {"compare"}),
}  # fmt: skip
FILES: Edits = {
    # code
    "sample.py": (code("pipeline/data/sample.py"), PREPARE | TRAIN | EVALUATE | {"report"}),
    "store.py": (code("pipeline/data/store.py"), PREPARE | TRAIN | EVALUATE | {"report"}),
    "the loader": (code("pipeline/loading/loader.py"), TRAIN | EVALUATE | {"report"}),
    "what datasets declare": (code("pipeline/datasets/spec.py"), PREPARE),
    "a reader": (code("pipeline/datasets/nyud.py"), PREPARE),
    "an archive's address": (code("pipeline/download/catalog.py"), {"download", "prepare"}),
    "own data's reader": (code("pipeline/datasets/folder.py"), PREPARE),
    "the generator": (code("pipeline/datasets/rooms/render.py"), PREPARE),
    "augment.py": (code("pipeline/train/augment.py"), TRAIN),
    "a network": (code("pipeline/networks/sca/ctam.py"), TRAIN | EVALUATE),
    "a new network": (new("pipeline/networks/novel.py", "x = 1\n"), TRAIN | EVALUATE),
    "the loss": (code("pipeline/tasks/losses.py"), TRAIN | EVALUATE | {"report"}),
    "the step": (code("pipeline/train/step.py"), TRAIN),
    "a released code's names": (code("pipeline/adopt/sca.py"), {"adoption"}),
    "a balancing method": (code("pipeline/balancing/by_losses.py"), TRAIN),
    "how epochs are chosen": (code("pipeline/train/epoch_selection.py"), TRAIN),
    "a task": (code("pipeline/tasks/depth.py"), TRAIN | EVALUATE | {"report"}),
    "painting": (code("pipeline/visual/paint.py"), EVALUATE | {"report"}),
    "a metric": (code("pipeline/metrics/depth.py"), {"selection", "report"} | EVALUATE),
    "the thinning": (code("pipeline/metrics/thinning.py"), PREPARE | {"selection", "report"} | EVALUATE),
    "Δm": (code("pipeline/metrics/delta.py"), {"selection", "compare", "report"} | EVALUATE),
    "the scoring": (code("pipeline/evaluation/scoring.py"), {"selection", "report"} | EVALUATE),
    "the cost": (code("pipeline/evaluation/cost.py"), EVALUATE | {"report"}),
    "the comparison": (code("pipeline/comparison/baselines.py"), {"compare"}),
    "intervals": (code("pipeline/comparison/intervals.py"), {"compare"}),
    "the width of intervals": (code("pipeline/comparison/estimate.py"), {"compare", "report"}),
    "how scores are resampled": (code("pipeline/metrics/resampling.py"), {"selection", "compare", "report"} | EVALUATE),
    "what images add": (code("pipeline/evaluation/statistics.py"), {"compare", "report"} | EVALUATE),
    "what run.json holds": (code("pipeline/results/run_record.py"), TRAIN | EVALUATE | {"report"}),
    "what metrics files hold": (code("pipeline/results/run_metrics.py"), EVALUATE | {"compare", "report"}),
    "what delta.json holds": (code("pipeline/results/comparison.py"), {"compare", "report"}),
    "who reads and writes them": (code("pipeline/core/result_file.py"), set()),
    "the report": (code("pipeline/report/markdown.py"), {"report"}),
    "published rows": (code("pipeline/comparison/published.py"), {"report"}),
    "which networks runs start from": (code("pipeline/params/single_task_weights.py"), SOURCES),
    "MLflow's side": (code("pipeline/tracking/mlflow_run.py"), set()),
    "messages": (code("pipeline/core/errors.py"), set()),
    "the schema": (code("pipeline/params/schema.py"), set()),
    "the doctor": (code("pipeline/tools/doctor.py"), set()),
    "a stage's entry": (code("stages/train.py"), set()),
    # data
    "the raw data": (new("data/raw/source.json"), {"download", "prepare"}),
    "own data": (new("data/own/images/1.png"), PREPARE),
    "a link in own data": (link, PREPARE),
    "another file in models": (new("models/notes.txt"), set()),
}  # fmt: skip
EDITS = UNSEEN | {kind: (edit, expected | {"check"}) for kind, (edit, expected) in VALUES.items()} | FILES


def new_default(section: str, key: str) -> None:
    path = Path("pipeline/params/defaults.yaml")
    defaults = yaml.safe_load(path.read_text())
    defaults[section][key] = 1
    path.write_text(yaml.safe_dump(defaults))


def test_nothing_is_rerun_when_nothing_is_edited(graph):
    assert graph.reruns() == set()


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_reruns_what_it_must_and_nothing_else(edited, kind):
    edit, expected = EDITS[kind]
    edit(edited)
    assert edited.reruns() == expected


def holdout(graph: Graph) -> None:
    """Weights are chosen by scores from here on, and everything is trained so."""
    param("evaluation.select_on", "train_holdout")(graph)
    param("training.validate_every", 1)(graph)
    graph.record()
    assert graph.reruns() == set()


METRIC = "pipeline/metrics/depth.py"


def look_again(graph: Graph, file: str) -> set[str]:
    """Edit what scores, and have `selection` look at it: the trainings that rerun for it."""
    code(file)(graph)
    assert not graph.reruns() & TRAIN, "DVC looks at models/selection.json, which is as it was"
    graph.project.stage("selection")
    return graph.reruns() & TRAIN


def test_what_scores_retrains_nothing_where_the_last_weights_are_scored(edited):
    assert look_again(edited, METRIC) == set()


def test_what_scores_retrains_where_scores_choose_the_weights(edited):
    holdout(edited)
    chosen = Path("models/selection.json")
    for file in (METRIC, "pipeline/metrics/delta.py", "pipeline/evaluation/scoring.py"):
        before = {path: path.read_bytes() for path in (Path(file), chosen)}
        assert look_again(edited, file) == TRAIN, file
        for path, content in before.items():
            path.write_bytes(content)


def test_a_choice_that_is_asked_for_retrains(edited):
    param("evaluation.select_on", "train_holdout")(edited)
    param("training.validate_every", 1)(edited)
    edited.project.stage("selection")
    param("training.validate_every", PARAMS["training"]["validate_every"])(edited)
    assert edited.reruns() & (TRAIN | EVALUATE) == TRAIN, "for the choice alone"


def test_what_maps_names_reruns_adopted_runs_alone(edited):
    param("runs.semseg.adopted", {"0": {"file": "checkpoints/a.pth", "sha256": "0" * 64}})(edited)
    edited.project.stage("adoption")
    edited.repo.commit("adoption", force=True)
    edited.repo.commit("train@semseg-0", force=True)
    assert not edited.reruns() & TRAIN
    code("pipeline/adopt/rules.py")(edited)
    assert edited.reruns() == {"adoption", "check", *SOURCES, *TABLES, *stages("evaluate", "semseg")}
    edited.project.stage("adoption")
    assert edited.reruns() & TRAIN == {"train@semseg-0"}


def test_one_training_brings_what_it_depends_on(edited):
    """`dvc repro train@<run>-<seed>` runs `selection` first."""
    code(METRIC)(edited)
    output = edited.project.dvc("repro", "--dry", "train@semseg-0")
    assert "Running stage 'selection'" in output and "Stage 'train@semseg-0' didn't change" in output


KILLED_WRITE = """
import os, signal, sys
from pathlib import Path
from pipeline.core import paths
with paths.atomic(Path(sys.argv[1])) as file:
    file.write("half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
HASHED = [
    "data/prepared/dataset.json", "data/prepared/val/index.json", "models/sca-0/run.json", "models/digests/sca-0.json",
    "reports/metrics/sca-0.json", "reports/history/sca-0.csv", "reports/panels/sca-0/sca.png", "data/own/dataset.yaml",
]  # fmt: skip


def test_what_a_killed_write_leaves_is_no_change(graph):
    before = graph.project.git("status", "--porcelain")
    for name in HASHED:
        done = subprocess.run([sys.executable, "-c", KILLED_WRITE, name], cwd=graph.root)
        assert done.returncode == -signal.SIGKILL
    left = [path for name in HASHED for path in (graph.root / name).parent.glob(f".{Path(name).name}.*")]
    try:
        assert len(left) == len(HASHED)
        assert graph.reruns() == set()
        assert graph.project.git("status", "--porcelain") == before
        assert {finding.what.split()[0] for finding in half_written()} == {
            str(path.relative_to(graph.root)) for path in left
        }
        for finding in half_written():
            finding.fix()
        assert not any(path.exists() for path in left)
    finally:
        for path in left:
            path.unlink(missing_ok=True)


def test_what_is_being_written_is_left_alone(graph):
    path = Path("reports/metrics/sca-0.json")
    with pytest.raises(KeyboardInterrupt), atomic(path):
        assert len(list(path.parent.glob(".*.partial"))) == 1
        assert list(half_written()) == [] and graph.reruns() == set()
        raise KeyboardInterrupt


def test_a_person_s_own_data_is_the_same_with_what_systems_leave(graph):
    before = _folder_digest(Path("data/own"))
    left = [graph.root / "data" / "own" / name for name in (".DS_Store", "._a.jpg", ".nfs0001", ".a.npy.x.partial")]
    try:
        for path in left:
            path.write_text("of the system")
        assert _folder_digest(Path("data/own")) == before and graph.reruns() == set()
    finally:
        for path in left:
            path.unlink()
