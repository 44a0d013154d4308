"""report.html: sound HTML that needs nothing else, with the comparison's numbers, whatever names hold."""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from pipeline.comparison.baselines import compare
from pipeline.comparison.intervals import add_intervals
from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.evaluation.confusion import confusion_file, write_confusion
from pipeline.report.content import Content
from pipeline.report.page.gains import task_gains
from pipeline.report.page.images import image_gains
from pipeline.report.page.render import inline, render
from pipeline.report.write import write_report
from tests.support import reported
from tests.support.browser import dump_dom
from tests.support.page import Page

PARAMS = reported.params()
HOSTILE = [*reported.CLASSES[2:4], *reported.IDS[1:], PARAMS.experiment]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    with reported.content_in(tmp_path_factory.mktemp("reported"), PARAMS) as content:
        yield content


@pytest.fixture(scope="module")
def source(content):
    return render(content)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_it_is_sound_html(page, source):
    assert source.startswith('<!DOCTYPE html>\n<html lang="en">')
    ids = [each.attributes["id"] for each in page.elements if "id" in each.attributes]
    assert len(set(ids)) == len(ids) > 8
    links = [each.attributes["href"] for each in page.all("a") + page.all("use")]
    assert {link.removeprefix("#") for link in links} <= set(ids) and all(link[0] == "#" for link in links)
    levels = [int(each.name[1]) for each in page.elements if re.fullmatch("h[1-6]", each.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    sections = [each.attributes["id"] for each in page.all("section")]
    assert [each.attributes["href"][1:] for each in page.all("a")] == sections
    assert sections == [
        "result",
        "scores",
        "gains",
        "training",
        "classes",
        "pictures",
        "attention",
        "images",
        "sources",
    ]


def test_it_needs_no_other_file_and_runs_nothing(page, source):
    for each in page.elements:
        assert each.name not in ("script", "link", "iframe", "object", "base", "form"), each.name
        assert not [name for name in each.attributes if name.startswith("on")], each
        for name in ("src", "href", "srcset", "data", "action"):
            assert each.attributes.get(name, "#").startswith(("#", "data:image/webp;base64,")), each
        assert "url(" not in each.attributes.get("style", "")
    (style,) = page.all("style")
    assert not re.search(r"url\(|@import|@font-face|</", style.text)
    assert not re.search(r"https?:", re.sub(r'xmlns="[^"]*"', "", source))


def test_every_picture_says_what_it_shows(page):
    pictures = page.all("img")
    assert len(pictures) == 2 * (3 * 4 + 2 * 6), "worst, median and best of two tasks; two shared ones, with baselines"
    assert all(each.attributes["alt"] for each in pictures)
    for drawing in page.all("svg"):
        named = drawing.attributes.get("role") == "img" and drawing.attributes.get("aria-label")
        assert named or drawing.attributes.get("aria-hidden") == "true", drawing


def shown(value, sign=False):
    digits = 3 if abs(value) < 10 and not sign else 2
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def test_scores_are_those_of_the_comparison_and_the_best_are_marked(content, page):
    head, *rows = page.rows("scores")
    by_run = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    best = {"semseg": max, "depth": min}
    for task, column in zip(reported.TASKS, head[1:], strict=False):
        entries = {run: of[task] for run, of in content.delta.scores.items() if task in of}
        first = best[task](entries, key=lambda run: entries[run].mean)
        for run, entry in entries.items():
            between = f"{shown(entry.interval.low)} to {shown(entry.interval.high)}"
            digits = len(shown(entry.mean).partition(".")[2])
            between = " to ".join(
                f"{end:.{digits}f}".replace("-", "−") for end in (entry.interval.low, entry.interval.high)
            )
            expected = f"{'★ best ' if run == first else ''}{shown(entry.mean)} {between}"
            assert by_run[run][column] == expected
    for run, gain in content.delta.delta_m.items():
        between = f"{shown(gain.interval.low, True)} to {shown(gain.interval.high, True)}"
        mark = "★ best " if run == "both" else ""
        assert by_run[run]["Δm % ↑"] == f"{mark}{shown(gain.mean, True)} {between}"
    assert page.all("p", class_="verdict")[0].text.endswith(content.delta.conclusions[0]), "of the best run"


def test_gains_by_task_are_those_of_the_comparison_with_the_interval_of_a_delta_m_of_one_task(content):
    """By another way: Δm, as `compare` works it out, of runs that have been scored on that task alone."""
    found = task_gains(content)
    for task in reported.TASKS:
        alone = []
        for result in (each for seeds in content.results.values() for each in seeds):
            if task in result.tasks:
                keys = {"tasks": {task: result.tasks[task]}}
                alone.append(replace(result, **keys, primary_metric={task: result.primary_metric[task]}))
        delta = add_intervals(compare(alone), alone)
        for run in ("both", "worse"):
            gain, own = delta.delta_m[run], found[run][task]
            assert own.mean == pytest.approx(content.delta.scores[run][task].delta, rel=1e-12)
            assert (own.mean, own.low, own.high) == pytest.approx((gain.mean, gain.interval.low, gain.interval.high))


def test_hostile_names_are_text(page):
    everything = page.elements[0].text + " ".join(
        value for each in page.elements for name, value in each.attributes.items() if name in ("alt", "aria-label")
    )
    for name in HOSTILE:
        assert name in everything, name
    assert not [each for each in page.elements if each.attributes.get("src") == "x"]
    assert {each.name for each in page.elements} & {"b", "i", "script"} == set()
    assert "49" not in page.all("section", id="images")[0].text.replace("{{ 7 * 7 }}", "").split()


def test_words_of_markdown_are_escaped_before_they_are_set():
    assert inline("`a<b` and **`c` is & d**") == "<code>a&lt;b</code> and <strong><code>c</code> is &amp; d</strong>"
    assert inline("**a `b** c`") == "<strong>a `b</strong> c`" and inline("`<i>") == "`&lt;i&gt;"


def test_the_same_content_gives_the_same_bytes(content, source):
    assert render(Content.read(PARAMS)) == source


def test_classes_and_confusion_are_scikit_learns(content, page):
    """IoU of a class: scikit-learn's Jaccard score of all pixels; each seed by itself, then their mean."""
    labels, predictions = {}, {}
    for seed in PARAMS.seeds:
        pairs = []
        for i in range(len(content.scored)):
            sample = content.scored[i]
            label = sample.labels["semseg"]
            pairs.append((label.value[label.valid], reported.predicted("both", seed, i, sample, "semseg")[label.valid]))
        labels[seed], predictions[seed] = (np.concatenate(each) for each in zip(*pairs, strict=True))
    iou = np.mean([jaccard_score(labels[s], predictions[s], average=None) for s in labels], axis=0)
    head, *rows = page.rows("bars")
    column = head.index("both")
    assert [row[column].removeprefix("★ best ") for row in rows] == [f"{100 * each:.2f}" for each in iou]
    assert [row[0] for row in rows] == list(reported.CLASSES[:4])
    total = sum(confusion_matrix(labels[s], predictions[s]) for s in labels)
    part = 100 * total / total.sum(1, keepdims=True)
    assert [row[1:] for row in page.rows("confusion")[1:]] == [[f"{each:.0f}" for each in row] for row in part]


def test_images_gain_what_their_own_scores_do(content):
    found = {(each.run, each.title): each for each in image_gains(content).tasks}
    depth = found["worse", "Depth"]
    assert depth.gains == [] and len(depth.losses) == 8, "worse everywhere"
    place = depth.losses[0].place
    sample = content.scored[place]
    label = sample.labels["depth"]
    rmse = {}
    for run in ("depth", "worse"):
        by_seed = [reported.predicted(run, seed, place, sample, "depth")[label.valid].clip(min=0) for seed in (0, 1)]
        rmse[run] = np.mean([np.sqrt(np.mean((each - label.value[label.valid]) ** 2)) for each in by_seed])
    expected = shown(rmse["depth"]), shown(rmse["worse"]), f"{rmse['depth'] - rmse['worse']:+.3f}"
    first = depth.losses[0]
    assert (first.baseline, first.own, first.gain) == expected and first.id == sample.id
    gains = [float(each.gain) for each in depth.losses]
    assert gains == sorted(gains)


def test_confusions_of_other_predictions_are_refused(content, tmp_path):
    path = confusion_file("both", 1)
    shutil.copy(path, tmp_path)
    other = content.confusions["both"][1]["semseg"].copy()
    other[0, 1] += 1
    try:
        write_confusion("both", 1, {"semseg": other})
        with pytest.raises(DataError, match=r"both-1/confusion.json does not fit .*both-1.parquet: semseg has other"):
            Content.read(PARAMS)
    finally:
        shutil.copy(tmp_path / path.name, path)


def test_one_seed_and_no_pictures_leave_those_parts_out(in_tmp):
    params = reported.params(seeds=[0])
    params = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"panels": 0})})
    reported.write_all(params)
    page = Page(render(Content.read(params)))
    assert not page.all("img") and not {"pictures", "attention"} & {each.attributes.get("id") for each in page.elements}
    assert "of one seed, so over images alone" in page.all("p", class_="verdict")[0].text


@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_phone(content, tmp_path):
    """Chromium lays it out 390 pixels wide, in a frame, and says how wide it became; tables scroll in their boxes."""
    write_report(PARAMS)
    assert {path.name for path in paths.REPORTS.glob("report.*")} == {"report.html", "report.md"}
    shutil.copy(paths.REPORT_HTML, tmp_path)
    (tmp_path / "frame.html").write_text(
        "<iframe src='report.html' style='width:390px;height:800px;border:0'></iframe><p id=said></p><script>"
        "document.querySelector('iframe').onload = event => { const page = event.target.contentDocument;"
        "page.querySelectorAll('details').forEach(each => each.open = true);"
        "const box = page.querySelector('.scroll'); document.getElementById('said').textContent ="
        "`page ${page.documentElement.scrollWidth} boxes ${Math.max(...[...page.querySelectorAll('.scroll')]"
        ".map(each => each.clientWidth))} svg ${page.querySelectorAll('svg').length}` }</script>"
    )
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            dumped = dump_dom(f"http://127.0.0.1:{server.server_port}/frame.html", tmp_path)
        finally:
            server.shutdown()
    said = re.search(r"page (\d+) boxes (\d+) svg (\d+)", dumped)
    assert said, dumped[-2000:]
    width, boxes, drawings = map(int, said.groups())
    assert width <= 390 and boxes < 390 and drawings > 10
    assert Path(tmp_path / "report.html").stat().st_size < 1_000_000
