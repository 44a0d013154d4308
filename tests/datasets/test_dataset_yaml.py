"""dataset.yaml of a person's own data: what is read from it, and what is said when something is not right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.core.errors import DataError
from pipeline.datasets import folder
from pipeline.params.schema import Data
from tests.support.layout_files import save, write_lists

RAW = Path("nowhere")
NAMES = [f"class {i}" for i in range(8)]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_lists(Path("data/own"), train=["a"], val=["b"])
    return Path("data/own")


def describe(own: Path, tasks: tuple[str, ...], **more: object) -> Data:
    """Write dataset.yaml; return params that ask for its tasks."""
    (own / "dataset.yaml").write_text(yaml.safe_dump({"name": "kitchens", "tasks": list(tasks), **more}))
    return Data(dataset="folder", tasks=tasks)


def test_the_example_in_the_documentation(own: Path, root: Path) -> None:
    text = (root / "docs/datasets.md").read_text(encoding="utf-8")
    (own / "dataset.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    example = folder.read_description(own)
    assert example.model_fields_set == set(folder.Description.model_fields), "it shows every key"
    assert example.name == "kitchens" and example.depth_scale == 1000
    assert example.ignore == {"semseg": (255,), "depth": (65535, float("inf"))} and example.max_depth == 80
    assert example.sal_max == 255 and example.png_codes == {"semseg": "stored"}
    assert example.normals_axes == ("x", "-y", "-z") and example.labels == "partial"
    assert example.splits == folder.Lists(test="gt_sets/test.txt")
    assert example.edge_max_dist == folder.Description.model_fields["edge_max_dist"].default


GOOD = {"name": "kitchens", "tasks": ["semseg", "depth"], "classes": {"semseg": NAMES}}

PROBLEMS = {
    "unknown key": ({"clases": {}}, "clases: unknown key; did you mean classes?"),
    "unknown split": ({"splits": {"tests": "x"}}, "splits.tests: unknown key; did you mean splits.test"),
    "split outside": ({"splits": {"test": "../test.txt"}}, "splits.test: got .*must be the path of a file in the"),
    "labels": ({"labels": "some"}, "labels: got 'some'; must be 'complete' or 'partial'"),
    "unknown task": ({"tasks": ["semsek"]}, r"tasks\[0\]: unknown task 'semsek'; did you mean 'semseg'"),
    "no task": ({"tasks": []}, "tasks: "),
    "task of another layout": ({"tasks": ["depth", "disparity"]}, "disparity has no place in this layout; allowed: "),
    "task twice": ({"tasks": ["depth", "depth"]}, "must not repeat depth"),
    "no classes": ({"classes": {}}, "classes.semseg: missing; list the names"),
    "one class": ({"classes": {"semseg": ["wall"]}}, "classes.semseg: .*at least 2"),
    "class twice": ({"classes": {"semseg": ["wall", "wall"]}}, "classes.semseg: .*must not repeat wall"),
    "classes of depth": ({"classes": {"depth": NAMES}}, "unknown task with classes 'depth'"),
    "classes of no task": (
        {"classes": {"semseg": NAMES, "human_parts": NAMES}},
        "classes.human_parts: human_parts is not in tasks",
    ),
    "class that YAML reads as false": (
        {"classes": {"semseg": ["wall", False]}},
        r"semseg\[1\]: got false; must be text",
    ),
    "ignore among classes": ({"ignore": {"semseg": 3}}, "ignore.semseg: 3 is the code of a class; .* 8 to 255"),
    "ignore 256": ({"ignore": {"semseg": 256}}, "ignore.semseg: got 256"),
    "ignore of no number": ({"ignore": {"depth": "sky"}}, "ignore.depth: got 'sky'; must be a number, or a list"),
    "ignore of true": ({"ignore": {"semseg": True}}, "ignore.semseg: got true; must be a number, or a list"),
    "ignore of nothing": ({"ignore": {"depth": []}}, r"ignore.depth: got \[\]; must hold at least one code"),
    "ignore twice": ({"ignore": {"depth": [9, 9.0]}}, "ignore.depth: .*must not repeat a code"),
    "ignore between codes": ({"ignore": {"semseg": 8.5}}, "ignore.semseg: got 8.5; must be a whole number"),
    "ignore of the last class": ({"ignore": {"semseg": [0, 8]}}, "ignore.semseg: 8 is the code of a class"),
    "ignore of another task": ({"ignore": {"normals": -1}}, "ignore.normals: normals is not in tasks"),
    "ignore of a typo": ({"ignore": {"dept": 0}}, "unknown task 'dept'; did you mean 'depth'"),
    "ignore of edges": ({"tasks": ["edge"], "classes": {}, "ignore": {"edge": 1}}, "0 and 1 are the labels themselves"),
    "max depth": ({"max_depth": -1}, "max_depth: got -1"),
    "max depth for ever": ({"max_depth": float("inf")}, "max_depth: got inf"),
    "full saliency": ({"sal_max": 256}, "sal_max: got 256"),
    "key of saliency": ({"sal_maks": 255}, "sal_maks: unknown key; did you mean sal_max"),
    "reading": ({"png_codes": {"semseg": "level"}}, "unknown reading 'level'; did you mean 'levels'"),
    "reading of depth": ({"png_codes": {"depth": "levels"}}, "unknown task with PNGs of codes 'depth'"),
    "reading of no task": ({"png_codes": {"sal": "levels"}}, "png_codes.sal: sal is not in tasks"),
    "ignore of a number": ({"ignore": 255}, "ignore: got 255; must be keys and values"),
    "name of another": ({"name": "nyud"}, "name: got 'nyud'; must not be the name of a dataset that is built in"),
    "no name": ({"name": ""}, "name: "),
    "scale": ({"depth_scale": 0}, "depth_scale: got 0"),
    "distance": ({"edge_max_dist": 2}, "edge_max_dist: got 2"),
    "axes": ({"normals_axes": ["x", "y", "y"]}, "normals_axes: .* must be x, y and z in some order"),
    "two axes": ({"normals_axes": ["x", "y"]}, "normals_axes: .* must be x, y and z in some order"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_slip_in_dataset_yaml_is_told(own: Path, problem: str) -> None:
    change, message = PROBLEMS[problem]
    (own / "dataset.yaml").write_text(yaml.safe_dump(GOOD))
    folder.read_description(own)
    (own / "dataset.yaml").write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(DataError, match=rf"data/own/dataset.yaml: (?s:.*){message}") as error:
        folder.read_description(own)
    assert "docs/datasets.md" in str(error.value)


def test_background_of_human_parts_is_not_ignored(own: Path) -> None:
    describe(own, ("human_parts",), classes={"human_parts": NAMES}, ignore={"human_parts": 0})
    with pytest.raises(DataError, match=r"ignore.human_parts: got 0; 0 is the background"):
        folder.read_description(own)


def test_every_problem_is_told_at_once(own: Path) -> None:
    (own / "dataset.yaml").write_text(yaml.safe_dump({"tasks": ["semsek"], "scale": 3}))
    with pytest.raises(DataError) as error:
        folder.read_description(own)
    message = str(error.value)
    assert message.startswith("data/own/dataset.yaml: 3 problems")
    assert "name: missing" in message and "semsek" in message and "scale: unknown key" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: [semseg\n", "data/own/dataset.yaml: line [0-9]+.*: not YAML"),
        ("name: a\nname: b\n", "line 2: name is given twice"),
        ("- semseg\n", "must hold keys and values"),
        ("", "must hold keys and values"),
    ],
)
def test_what_is_no_description_is_told(own: Path, content: str, message: str) -> None:
    (own / "dataset.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        folder.read_description(own)


def test_a_folder_that_is_not_ready_says_what_to_put_there(own: Path) -> None:
    asked = Data(dataset="folder", tasks=("depth",))
    for call in (folder.resolve, folder.splits):
        with pytest.raises(
            DataError, match=r"data/own/dataset.yaml is missing: .*images, labels and .*docs/datasets.md"
        ):
            call(RAW, asked)
    missing = Data(dataset="folder", tasks=("depth",), folder="data/onw")
    with pytest.raises(DataError, match=r"there is no folder data/onw: data.folder names .*docs/datasets.md"):
        folder.resolve(RAW, missing)


def test_tasks_that_are_asked_for_must_be_there(own: Path) -> None:
    describe(own, ("depth", "edge"))
    with pytest.raises(
        DataError, match=r"data.tasks asks for normals, sal, but data/own/dataset.yaml lists only depth, edge"
    ):
        folder.resolve(RAW, Data(dataset="folder", tasks=("depth", "normals", "sal")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "gt_sets/train.txt is missing"),
        (b"", "gt_sets/train.txt is empty"),
        (b"a\na\n", "gt_sets/train.txt names 1 ids twice, the first: a"),
        (b"sub/a\n", "gt_sets/train.txt holds 'sub/a'"),
    ],
)
def test_a_bad_list_is_told(own: Path, content: bytes | None, message: str) -> None:
    params = describe(own, ("edge",))
    (own / "gt_sets/train.txt").unlink()
    if content is not None:
        save(own / "gt_sets/train.txt", content)
    with pytest.raises(DataError, match=message):
        folder.splits(RAW, params)
