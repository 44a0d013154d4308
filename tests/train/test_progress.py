"""What a training says of its progress, on a terminal and where there is none."""

from __future__ import annotations

import pytest

from pipeline.core.console import duration
from pipeline.train import progress as module
from pipeline.train.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def steps(progress, clock, count, seconds):
    for _ in range(count):
        clock.now += seconds
        progress.update()


def test_a_log_gets_a_line_a_minute(clock, capsys):
    with Progress("pair-0", 500, 0, shown=True) as progress:
        progress.show_loss(1.25)
        steps(progress, clock, 59, 1.0)
        assert capsys.readouterr().err == ""
        steps(progress, clock, 61, 1.0)
        assert capsys.readouterr().err.splitlines() == [
            "pair-0: step 60 of 500, loss 1.250, about 7 min to go",
            "pair-0: step 120 of 500, loss 1.250, about 6 min to go",
        ]


def test_what_a_former_process_did_counts_as_done_and_not_as_speed(clock, capsys):
    with Progress("pair-0", 500, 400, shown=True) as progress:
        steps(progress, clock, 60, 1.0)
    assert capsys.readouterr().err == "pair-0: step 460 of 500, about 40 s to go\n"


def test_other_processes_of_a_training_say_nothing(clock, capsys):
    with Progress("pair-0", 500, 0, shown=False) as progress:
        steps(progress, clock, 500, 10.0)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_and_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress("pair-0", 3, 0, shown=True) as progress:
        progress.show_loss(1.25)
        steps(progress, clock, 3, 100.0)
    shown = capsys.readouterr().err
    assert "pair-0" in shown and "3/3" in shown and "to go" not in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (90, "90 s"), (91, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (90000, "25.0 h")],
)
def test_durations_are_rough(seconds, words):
    assert duration(seconds) == words
