"""Metrics on their way: each arrives once, whatever the store does meanwhile."""

import math
import threading

import pytest

from pipeline.core.errors import TrackingError
from pipeline.tracking import metric_queue
from pipeline.tracking.metric_queue import (
    MetricQueue,
    Point,
    TrackingBlocked,
    TrackingUnavailable,
    retry_while_unavailable,
    within,
)


class Store:
    """A store that is unreachable as often as it is told to be, before or after it took what it was sent."""

    def __init__(self, away=0, after_taking=False):
        self.points: list[Point] = []
        self.away, self.after_taking, self.asked, self.threads = away, after_taking, 0, set()

    def send(self, points):
        self.threads.add(threading.current_thread())
        if not self.after_taking:
            self._fail()
        self.points += points
        self._fail()

    def _fail(self):
        if self.away:
            self.away -= 1
            raise TrackingUnavailable("the store is unreachable")

    def arrived(self):
        self.asked += 1
        return {(point.name, point.step) for point in self.points}

    @property
    def values(self):
        return [(point.name, point.step, point.value) for point in self.points]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(metric_queue, "_SEND_SECONDS", 0)


def box(store, **options):
    return MetricQueue(store.send, store.arrived, **options)


@pytest.mark.parametrize("after_taking", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.slow
def test_nothing_is_lost_and_nothing_comes_twice(after_taking, background, capsys):
    store, recovered = Store(away=3, after_taking=after_taking), []
    sender = box(store, background=background, recovered=lambda: recovered.append(True))
    for step in range(2500):  # more than a batch
        sender.add({"loss": step / 2}, step)
    if background:
        assert threading.main_thread() not in store.threads, "training does not wait for the store"
    retry_while_unavailable(sender.send, "remedy")
    sender.close()
    assert store.values == [("loss", step, step / 2) for step in range(2500)]
    assert capsys.readouterr().err.count("the store is unreachable. Work continues") <= 1


def test_a_resumed_training_gives_the_store_what_it_lacks():
    store = Store()
    first = box(store)
    for step in (1, 2, 3):
        first.add({"loss": float(step)}, step)
    lost = [Point("loss", 4.0, 0, 4)]  # in the checkpoint, but never sent
    again = box(store, points=[*first.points[:2], *lost])  # and step 3 is newer than the checkpoint
    again.add({"loss": 33.0}, 3)
    again.add({"loss": 5.0}, 5)
    again.send()
    assert store.values == [("loss", step, float(step)) for step in (1, 2, 3, 4, 5)]
    assert [point.step for point in again.points] == [1, 2, 4, 3, 5], "the next checkpoint keeps all"


def test_points_that_come_while_others_are_sent_wait_for_the_next_time():
    """A training whose steps are shorter than the store's answers would have it asked without a pause."""
    store, sent = Store(), []

    def send(points):
        sent.append([point.step for point in points])
        if len(sent) < 9:
            queue.points.append(Point("loss", 0.0, 0, len(queue.points)))

    queue = MetricQueue(send, store.arrived, [Point("loss", 0.0, 0, 0)])
    for expected in ([[0]], [[0], [1]]):
        queue.send()
        assert sent == expected


def test_a_store_that_stays_away_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 0.6)
    sender = box(Store(away=1000))
    sender.add({"loss": math.nan}, 1)
    with pytest.raises(TrackingError, match=r"the store is unreachable, for 1 s\. Run it again"):
        retry_while_unavailable(sender.send, "Run it again")


def test_a_store_that_is_blocked_ends_a_wait_at_once_and_a_training_never(capsys):
    class Blocked(Store):
        def _fail(self):
            if self.away:
                self.away -= 1
                raise TrackingBlocked("the disk is full")

    sender = box(Blocked(away=2), background=True)
    sender.add({"loss": 1.0}, 1)
    while "the disk is full. Work continues" not in capsys.readouterr().err:
        threading.Event().wait(0.01)
    sender.add({"loss": 0.5}, 2)
    sender.close()
    with pytest.raises(TrackingError, match=r"the disk is full\. Run it again"):
        retry_while_unavailable(box(Blocked(away=1), points=sender.points).send, "Run it again")


def test_what_takes_too_long_is_left_to_itself():
    ended = threading.Event()
    with pytest.raises(TrackingUnavailable, match="no answer within 0 s"):
        within(0.1, ended.wait)
    ended.set()
    within(5, lambda: None)
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)


def test_what_the_store_refuses_stops_the_work():
    def refuse(points):
        raise TrackingError("the run was deleted")

    sender = MetricQueue(refuse, set, background=True)
    with pytest.raises(TrackingError, match="was deleted"):
        for step in range(10_000):
            sender.add({"loss": 1.0}, step)
            threading.Event().wait(0.01)


def test_what_else_there_is_follows_the_points_and_is_tried_again():
    store, tries = Store(), []

    def follow():
        tries.append(len(store.points))
        if len(tries) < 3:
            raise TrackingUnavailable("no room for pictures")

    queue = box(store, follow=follow)
    queue.points.append(Point("loss", 1.0, 0, 1))
    for _ in range(2):
        with pytest.raises(TrackingUnavailable, match="pictures"):
            queue.send()
    queue.send()
    assert tries == [1, 1, 1] and len(store.points) == 1
