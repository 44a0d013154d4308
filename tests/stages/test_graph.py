"""dvc.yaml names all that decides a result: the code that each stage reaches, and the defaults that fill params in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from pipeline.core import names, paths, provenance
from pipeline.datasets import DATASETS
from pipeline.download import catalog
from pipeline.params.load import load_params, parse_params
from pipeline.params.schema import DEFAULTS, Augmentation, Data, Evaluation, Params, Rooms, Training
from pipeline.params.search import Search
from tests.stages.test_imports import imported, within
from tests.support.params_tree import put, some_params

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# -- code ----------------------------------------------------------------------------------------------------

# What a stage imports and does not depend on, and why an edit of it can't change what the stage leaves. A package
# stands for all that is in it, and what that imports is not looked at; <package>.__init__ for that file alone, whose
# imports count. A history's scores by epoch do change with a metric: they are for the eye, nothing is made from them.
ANYWHERE = {
    "core": "errors, messages, paths and state on disk: it refuses, or names, what changed",
    "params": "merges and checks values that are params of the stage; defaults are in defaults.yaml",
}
READERS = {"datasets": "declares classes, which cost is counted for; prepare has read the data"}
KINDS = {"results.__init__": "a docstring; of the package, those files are dependencies whose results it handles"}
TRACKING = {"tracking": "writes to MLflow, whose store no stage reads a result from"}
EXEMPT = {
    "download": {},
    "prepare": {
        "download.__init__": "a docstring",
        "download.google_drive": "fetches; prepare only unpacks",
        "download.transfer": "fetches; of it prepare has the progress bar, a block size and the check for space",
        "metrics.__init__": "a docstring; of the package, the thinning is a dependency",
        "tasks": "refuses samples of another type or shape; changes none",
    },
    "selection": {},
    "adoption": {},
    "train": {
        **TRACKING,
        **KINDS,
        "adopt": "maps names for runs that are adopted; for these models/adoption.json holds its digest",
        "evaluation": "scores by epoch, for the eye; where they choose weights, models/selection.json holds its digest",
        "metrics": "scores by epoch, for the eye; where they choose weights, models/selection.json holds their digests",
        "tools": "starts the processes; how many there are is recorded with the inputs",
        "visual": "paints what MLflow shows",
    },
    "evaluate": {
        **READERS,
        **TRACKING,
        **KINDS,
        "visual.__init__": "a docstring; of the package, painting is a dependency",
    },
    "single_task_weights": {},
    "compare": {
        **TRACKING,
        **KINDS,
        "comparison.__init__": "a docstring",
        "evaluation.__init__": "a docstring; of the package, the reader of what images add is a dependency",
        "metrics.__init__": "a docstring; of the package, Δm and its interval are dependencies",
    },
    "report": {
        **TRACKING,
        "comparison.__init__": "a docstring; of the package, published rows are a dependency",
    },
}
EXEMPT["train_from_single_task"] = EXEMPT["train"]
EXEMPT["evaluate_from_single_task"] = EXEMPT["evaluate"]


def file_of(module: str) -> Path | None:
    """The module's file from the root, or None for a name that is none."""
    path = Path(*module.split("."))
    return next((each for each in (path / "__init__.py", path.with_suffix(".py")) if (ROOT / each).exists()), None)


def reached(stage: str) -> tuple[dict[str, Path], set[str]]:
    """{module: file} of the library that a stage can import, from its entry on, and the exemptions that were met.

    What an exempt module imports counts only where something else imports it too.
    """
    exempt = ANYWHERE | EXEMPT[stage]
    entry = GRAPH[stage]["cmd"].split()[2]
    seen: dict[str, Path] = {}
    met: set[str] = set()
    todo = [entry]
    while todo:
        module = todo.pop()
        file = file_of(module)
        parent = module.rpartition(".")[0]
        if file is None or parent.startswith("pipeline"):  # importing a module runs its package first
            todo.append(parent)
        if file is None or module in seen or module == "pipeline":
            continue
        found = {part for part in exempt if within(module, f"pipeline.{part}")}
        met |= found
        if found:
            continue
        own = module.removeprefix("pipeline.") + ".__init__"
        met |= {own} & set(exempt)
        seen[module] = file
        source = (ROOT / file).read_text()
        todo += [
            name
            for _, name in imported(source, module, file.name == "__init__.py")
            if name.startswith(("pipeline.", "stages._entry"))
        ]
    counts = {module for module in seen if module.removeprefix("pipeline.") + ".__init__" not in exempt}
    return {module: seen[module] for module in counts if not within(module, "stages")}, met


@pytest.mark.parametrize("stage", [stage for stage in GRAPH if stage != "check"])  # its out is always the same
def test_a_stage_depends_on_the_code_that_it_can_reach(stage):
    known = set(provenance.stage_code(stage, ROOT / "dvc.yaml"))
    seen, met = reached(stage)
    missing = {module: file for module, file in seen.items() if file not in known}
    assert not missing, f"{stage} reaches what dvc.yaml does not list: {', '.join(sorted(missing))}"
    assert not (stale := set(EXEMPT[stage]) - met), f"{stage} no longer imports {', '.join(sorted(stale))}"
    assert all(len(reason) > 10 for reason in EXEMPT[stage].values())


def test_the_walk_finds_what_training_is_made_of():
    seen, _ = reached("train")
    assert {"pipeline.networks.sca.network", "pipeline.tasks.losses", "pipeline.data.sample"} <= set(seen)
    assert len(seen) > 50


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_lists_no_code_that_is_not_there(stage):
    for each in GRAPH[stage].get("deps", ()):
        if each.startswith("pipeline"):
            assert (ROOT / each).exists(), each


def test_datasets_without_an_archive_are_those_that_the_catalog_has_none_for():
    assert set(DATASETS) == set(catalog.ARCHIVES)
    assert set(names.WITHOUT_ARCHIVE) == {name for name, archive in catalog.ARCHIVES.items() if archive is None}


# -- defaults ------------------------------------------------------------------------------------------------

SECTIONS = {"data": Data, "data.rooms": Rooms, "training": Training, "training.augmentation": Augmentation,
            "evaluation": Evaluation, "search": Search}  # fmt: skip
NO_RESULT = {
    "checkpoint_minutes": "how often one saves changes nothing",
    "evaluation": "a section, in the file by itself",
    "runs_from_single_task": "none",
    "search": "values for trials, which are no part of the graph",
}


def at(tree: dict, path: str):
    for key in path.split("."):
        tree = tree[key]
    return tree


@pytest.mark.parametrize("section", SECTIONS)
def test_every_default_stands_in_the_file_that_stages_depend_on(section):
    fields = SECTIONS[section].model_fields
    optional = {name for name, field in fields.items() if not field.is_required()}
    assert optional == set(at(DEFAULTS, section))


def test_what_else_has_a_default_changes_no_result():
    optional = {name for name, field in Params.model_fields.items() if not field.is_required()}
    assert optional == {"experiment", "tuned", *NO_RESULT}
    assert set(DEFAULTS) == {"experiment", "data", "training", "evaluation", "search", "tuned"}


def leaves(tree: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize("key", leaves(DEFAULTS))
def test_a_key_left_out_has_the_value_of_the_file(key):
    """Read by another reader, and looked up in params that say nothing about the key."""
    raw = some_params()
    if key == "data.folder" or key in raw:
        raw.pop(key, None)
    for section in ("task_weights", "augmentation"):
        raw["training"].pop(section)
    value = parse_params(raw)
    for part in key.split("."):
        value = getattr(value, part) if isinstance(value, BaseModel) else value[part]
    expected = at(yaml.safe_load((ROOT / "pipeline/params/defaults.yaml").read_text()), key)
    assert (list(value) if isinstance(value, tuple) else value) == expected


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_depends_on_the_defaults_of_its_params(stage):
    """Whatever it depends on in params.yaml, and has a default, it depends on there too, and on nothing else."""
    own = [each for each in GRAPH[stage]["params"] if isinstance(each, str)]
    listed = [each for each in GRAPH[stage]["params"] if isinstance(each, dict)]
    defaults = {key for each in listed for key in each.get("pipeline/params/defaults.yaml", [])}
    wanted = {key for key in own if has(DEFAULTS, key)}
    assert defaults == wanted
    merges = stage != "adoption"  # which only asks whether a run has files
    assert not merges or any(key.startswith("runs") for key in own) <= ("training" in own)  # over the common recipe


def has(tree: object, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def test_another_split_to_score_prepares_and_trains_nothing():
    asks = {stage for stage, content in GRAPH.items() if "evaluation.split" in content["params"]}
    assert asks == {"evaluate", "evaluate_from_single_task", "compare", "report"}
    assert not any("evaluation" in content["params"] for stage, content in GRAPH.items() if stage != "check")


def test_no_stage_depends_on_the_search():
    for content in GRAPH.values():
        own = [each for each in content["params"] if isinstance(each, str)]
        listed = [
            key for each in content["params"] if isinstance(each, dict) for keys in each.values() for key in keys or ()
        ]
        assert not [key for key in (*own, *listed) if key.partition(".")[0] == "search"]


# -- the choice of weights -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = provenance.stage_code("selection")
    monkeypatch.chdir(tmp_path)
    for file in code:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    return tmp_path


def written(project: Path, select_on: str | None) -> dict:
    from stages.selection import main

    raw = some_params()
    put(raw, "evaluation.select_on", select_on)
    put(raw, "training.validate_every", 1)
    main(parse_params(raw))
    return paths.read_json(paths.SELECTION)


def test_what_chooses_weights_is_written_down_where_weights_are_chosen(project):
    assert written(project, None) == {}
    first = written(project, "train_holdout")
    code = {f"file {path.relative_to(ROOT)}" for path in (ROOT / "pipeline/metrics").glob("*.py")}
    assert set(first) == {"param select_on", "file pipeline/evaluation/scoring.py", *code}
    metric = project / "pipeline/metrics/depth.py"
    metric.write_text(metric.read_text() + "\n")
    again = written(project, "train_holdout")
    assert {name for name in first if first[name] != again[name]} == {"file pipeline/metrics/depth.py"}
    assert written(project, None) == {}


# -- adoption ------------------------------------------------------------------------------------------------


def test_what_maps_names_is_written_down_for_adopted_runs_alone(project):
    from stages.adoption import main

    raw = some_params()
    name, *others = raw["runs"]
    main(parse_params(raw))
    assert set(paths.read_json(paths.ADOPTION)["runs"].values()) == {None}
    put(raw, f"runs.{name}.adopted", {"0": {"file": "checkpoints/a.pth", "sha256": "0" * 64}})
    folder = project / "pipeline/adopt"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.py").write_text("# one\n")
    main(parse_params(raw))
    first = paths.read_json(paths.ADOPTION)["runs"]
    (folder / "rules.py").write_text("# another\n")
    main(parse_params(raw))
    again = paths.read_json(paths.ADOPTION)["runs"]
    assert first[name] != again[name] and len(first[name]) == 64
    assert all(first[other] is None is again[other] for other in others)


def test_the_profiles_ask_for_no_choice():
    """So that an edit of a metric retrains nothing there."""
    assert {load_params(path).evaluation.select_on for path in (ROOT / "profiles").glob("*.yaml")} == {None}
