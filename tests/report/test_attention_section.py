"""The report's section on cross attention: its numbers, its pictures, and reports that have none."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from matplotlib import colormaps

from pipeline.core import paths
from pipeline.evaluation.attention import Gathered
from pipeline.report.attention import attention_section, largest, percent
from pipeline.report.page.attention import attention
from pipeline.report.page.render import render
from pipeline.visual.attention_page import attention_page
from tests.support import reported
from tests.support.page import Page

PARAMS = reported.params(seeds=[0])
SAMPLE = reported.IDS[2]  # of eight images two are shown, the third and the seventh


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    with reported.content_in(tmp_path_factory.mktemp("reported"), PARAMS) as content:
        yield content


def cells(table) -> list[list[str]]:
    return [[cell.text for cell in row.children] for part in table.children[1:] for row in part.children]


def test_the_page_has_what_each_answer_changes(content):
    page = Page(render(content))
    (section,) = page.all("section", id="attention")
    assert f"The image here is {SAMPLE} ." in section.text
    semseg, depth = page.all("table", class_="attention")
    assert cells(semseg) == [
        ["at", "CTAM: Depth", "CSAM: scale 2"],
        ["scale 1 (finest)", "1.23 %", "0.08 %"],
        ["scale 2", "< 0.01 %", ""],
    ]
    assert [each.text for each in page.all("td", class_="most")] == ["1.23 %", "101.23 %"]
    assert cells(depth)[1] == ["scale 1 (finest)", "101.23 %", "0.08 %"]
    assert "Semantic segmentation. The largest change is 1.23 %: at scale 1, CTAM: Depth." in semseg.text
    said = [each.attributes["aria-label"] for each in page.all("svg", role="img")]
    assert said.count(f"Image of sample {SAMPLE}, a cross on its middle pixel") == 2
    about = [each for each in said if each.startswith("Semantic segmentation of both, scale")]
    weights = reported.gathered(0)["semseg"].tasks[0]["depth"].weights
    assert len(about) == 3
    assert f"weights over CTAM: Depth: the largest is {weights.max() * 54:.1f} times the mean" in about[0]


def decoded(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_a_map_is_its_weights_by_multiples_of_their_mean(content):
    found = attention(content)
    shown = found.runs["both"][0].rows[0][1][0]
    weights = reported.gathered(0)["semseg"].tasks[0]["depth"].weights
    level = np.minimum(weights / weights.mean() / 4, 1)
    assert np.abs(decoded(shown.picture).astype(int) - colormaps["inferno"](level, bytes=True)[..., :3]).max() <= 4
    height, width = reported.SIZE
    assert (found.width, found.height) == (100, pytest.approx(100 * height / width, abs=0.01))
    middle = 100 * 18.5 / width, found.height * 12.5 / height
    assert (found.x, found.y) == pytest.approx(middle, abs=0.01)


def test_a_large_map_is_averaged_and_the_place_of_its_largest_weight_is_said(content):
    weights = np.zeros((100, 200), np.float32)
    weights[10:20, 100:110] = 0.01
    (of,) = (each for name, each in content.predictions["both"].items() if name == f"{SAMPLE}/semseg/ctam/1/depth")
    assert of.shape == (6, 9)
    larger = content.predictions["both"] | {f"{SAMPLE}/semseg/ctam/1/depth": weights}
    found = attention(replace(content, predictions=content.predictions | {"both": larger}))
    shown = found.runs["both"][0].rows[0][1][0]
    picture = decoded(shown.picture)
    assert picture.shape == (24, 48, 3)
    bright = np.argwhere(picture.sum(-1) > 600)
    assert bright.min(0).tolist() >= [2, 24] and bright.max(0).tolist() <= [4, 26]
    assert "200.0 times the mean, 50 % from the left and 10 % from the top" in shown.about


def test_markdown_has_the_same_numbers_beside_a_picture_for_each_task(content):
    text = attention_section(content)
    assert "| at | CTAM: Depth | CSAM: scale 2 |" in text and "| scale 1 (finest) | 1.23 % | 0.08 % |" in text
    assert re.findall(r"!\[.*\]\((.*)\)", text) == [f"figures/attention-both-{task}.png" for task in reported.TASKS]
    for task in reported.TASKS:
        assert min(cv2.imread(str(paths.FIGURES / f"attention-both-{task}.png")).shape[:2]) > 300
    assert "details" not in text


def test_runs_beyond_the_second_are_folded_away(content):
    one_task = {name: of for name, of in content.predictions["both"].items() if name.startswith(f"{SAMPLE}/depth/")}
    several = replace(content, predictions=dict.fromkeys(("both", "worse", "depth"), one_task))
    text = attention_section(several)
    assert text.count("<details>") == 1 and "<details><summary><code>depth</code>" in text and "### `worse`" in text
    found = attention(several)
    assert list(found.runs) == ["both", "worse", "depth"] and found.open == 2


def test_there_is_no_section_without_a_run_that_has_cross_attention(content):
    without = {name: of for name, of in content.predictions.items() if name != "both"}
    assert len(without) == 3
    assert attention(replace(content, predictions=without)) is None
    assert attention_section(replace(content, predictions=without)) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (0.0, "0.00 %"),
        (4.9e-5, "< 0.01 %"),
        (5.1e-5, "0.01 %"),
        (1.5, "150.00 %"),
        (float("inf"), "–"),
        (float("nan"), "–"),
    ],
)
def test_percentages(change, expected):
    assert percent(change) == expected


@pytest.mark.parametrize("unknown", [float("nan"), float("inf")])
def test_a_change_that_is_no_number_hides_no_other(unknown):
    weights = np.full((2, 2), 0.25, np.float32)
    rows = [{"depth": Gathered(weights, unknown)}, {"depth": Gathered(weights, 0.5)}]
    assert largest(rows) == (0.5, 1, "depth")
    figure = attention_page(np.zeros((8, 8, 3), np.uint8), (0.5, 0.5), rows, "a page")
    titles = [axis.get_title() for axis in figure.axes]
    assert "from depth: –" in titles and "from depth: 50 %" in titles
