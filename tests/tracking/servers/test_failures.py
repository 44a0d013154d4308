"""MLflow servers that are slow, broken, gone for a while, or back at another address."""

import contextlib
import os
import socket
import time

import pytest

from pipeline.core.errors import TrackingError
from pipeline.tracking import metric_queue, mlflow_run, run_log
from tests.support.mlflow_server import Fault, basic, fault_server
from tests.support.server_runs import PASSWORD, USER, check_all, record_all, runs, steps_of, trained

pytestmark = pytest.mark.e2e

FAILURES = {
    "500": Fault(500), "502": Fault(502), "503": Fault(503), "429": Fault(429, headers={"Retry-After": "3600"}),
    "reset": Fault("reset"), "hang": Fault("hang"), "lost": Fault("lost"),
}  # fmt: skip


def failing(kind, monkeypatch, **changes):
    """What fails so; of a server that hangs the client waits a second."""
    if kind == "hang":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    return Fault(**(vars(FAILURES[kind]) | {"headers": dict(FAILURES[kind].headers)} | changes))


@pytest.mark.parametrize("kind", FAILURES)
def test_a_stage_waits_for_a_server_that_fails_when_it_starts(proxy, store, experiment, kind, monkeypatch, capsys):
    proxy.faults = [failing(kind, monkeypatch, times=1 if kind == "hang" else 2)]
    with trained(experiment) as log:
        pass
    assert [run.info.run_id for run in runs(store, experiment)] == [log.id]
    assert capsys.readouterr().err.count("tried again for 20 s") == 1


class Training:
    """One that logs a step every 10 ms, and how long its slowest call took."""

    def __init__(self, log):
        self.log, self.step, self.slowest = log, 0, 0.0

    def run(self, steps=5, until=lambda: True):
        """At least so many steps, and on until this is so."""
        first, deadline = self.step, time.monotonic() + 60
        while self.step < first + steps or not until():
            assert time.monotonic() < deadline, "what should happen in a moment did not in a minute"
            self.step += 1
            began = time.monotonic()
            self.log.metrics({"loss/depth": 1 / self.step, "learning_rate": 0.1}, self.step)
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.01)


def test_a_training_goes_on_while_the_server_fails(proxy, store, experiment, monkeypatch, capsys):
    """In one way after the other. Each point arrives once, and no call of the training waits."""
    with trained(experiment) as log:
        training = Training(log)
        for kind in FAILURES:
            told = []

            def said(text, told=told):
                told.append(capsys.readouterr().err)
                return text in "".join(told)

            training.run()
            proxy.faults = [failing(kind, monkeypatch)]
            training.run(until=lambda: said("Work continues"))
            proxy.faults = []
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # else a busy machine may fail by itself
            training.run(until=lambda: said("answers again, and has every metric"))
            assert "Traceback" not in "".join(told), kind
    assert training.slowest < 0.5, "training does not wait for the server"
    assert store.get_run(log.id).info.status == "FINISHED"
    for name in ("loss/depth", "learning_rate"):
        assert steps_of(store, log.id, name) == list(range(1, training.step + 1))


@pytest.mark.parametrize("kind", FAILURES)
def test_a_server_that_fails_at_the_end_gets_all_in_the_next_attempt(proxy, store, experiment, kind, monkeypatch):
    expected = pytest.raises(TrackingError, match=r"for 1 s\. Nothing that was computed is lost.*`dvc repro` resumes")
    with expected, trained(experiment) as log:
        log.metrics({"loss/depth": 1.0}, 1)
        proxy.faults = [failing(kind, monkeypatch)]
        log.metrics({"loss/depth": 0.5}, 2)
        monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 0.6)
        monkeypatch.setattr(run_log, "_LAST_SECONDS", 0.5)
    proxy.faults = []
    with trained(experiment, points=log.points) as again:
        again.metrics({"loss/depth": 0.25}, 3)
    assert again.id == log.id and steps_of(store, log.id) == [1, 2, 3]
    assert [run.info.status for run in runs(store, experiment)] == ["FINISHED"]


def test_a_failing_stage_does_not_wait_for_a_server_that_hangs(proxy, experiment, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setattr(run_log, "_LAST_SECONDS", 0.5)
    began = float("inf")
    with pytest.raises(RuntimeError, match="on purpose"), trained(experiment) as log:
        proxy.faults = [Fault("hang")]
        log.metrics({"loss/depth": 1.0}, 1)
        time.sleep(0.2)
        began = time.monotonic()
        raise RuntimeError("on purpose")
    assert time.monotonic() - began < 5


def test_a_password_that_no_longer_holds_does_not_end_a_training(upstream, store, experiment, monkeypatch, capsys):
    """Nor does a certificate that has expired meanwhile: whoever runs the server may fix that, and nothing is lost."""
    with fault_server(upstream.uri, authorization=basic(USER, PASSWORD)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        with trained(experiment) as log:
            training = Training(log)
            training.run()
            server.authorization = basic(USER, "changed")
            training.run(until=lambda: "with this password" in capsys.readouterr().err)
            server.authorization = basic(USER, PASSWORD)
            training.run()
    assert steps_of(store, log.id) == list(range(1, training.step + 1))


def test_a_long_silence_is_explained(proxy, experiment, monkeypatch, capsys):
    monkeypatch.setattr(metric_queue, "_SILENT_SECONDS", 0.2)
    proxy.faults = [failing("hang", monkeypatch, times=1)]
    mlflow_run.connect(experiment)
    assert "waiting for the answer of MLflow's store" in capsys.readouterr().err


# -- an answer that is lost ---------------------------------------------------------------------------------------


def test_a_run_whose_making_was_not_answered_is_not_made_twice(proxy, store, experiment):
    proxy.faults = [Fault("lost", "runs/create", times=1)]
    with trained(experiment) as log:
        log.metrics({"loss/depth": 1.0}, 1)
    assert [run.info.run_id for run in runs(store, experiment)] == [log.id]
    assert steps_of(store, log.id) == [1]
    assert len([path for _, path in proxy.requests if "runs/create" in path]) == 1


def test_a_run_that_is_made_after_it_was_given_up_is_deleted(proxy, store, experiment, monkeypatch):
    """The server made it late: when the client looked for it, there was none yet."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.faults = [Fault("late", "runs/create", times=1, seconds=2)]
    with trained(experiment) as log:
        log.metrics({"loss/depth": 1.0}, 1)
        while len(runs(store, experiment)) < 2:
            time.sleep(0.02)
    assert [run.info.run_id for run in runs(store, experiment)] == [log.id]


def test_an_experiment_whose_making_was_not_answered(proxy, store, experiment):
    proxy.faults = [Fault("lost", "experiments/create", times=1)]
    assert mlflow_run.connect(experiment) == store.get_experiment_by_name(experiment).experiment_id


def test_a_restored_run_whose_making_was_not_answered(proxy, store, experiment):
    proxy.faults = [Fault("lost", "runs/create", times=1)]
    with mlflow_run.continued_run(mlflow_run.connect(experiment), "depth", 0, "0" * 64) as log:
        log.scores({"depth/rmse": 1.0})
    assert [run.info.run_id for run in runs(store, experiment)] == [log.id]


@pytest.mark.parametrize("path", ["runs/log-batch", "runs/update", "artifacts"])
def test_what_arrived_without_an_answer_is_there_once(proxy, store, experiment, tmp_path, path):
    proxy.faults = [Fault("lost", path, times=2, method="PUT" if path == "artifacts" else "POST")]
    check_all(store, record_all(experiment, tmp_path))


def test_mlflows_own_retries_are_off(monkeypatch):
    """Whatever the environment says: they would send again what may have arrived."""
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


# -- another address ----------------------------------------------------------------------------------------------


def test_a_server_whose_name_leads_elsewhere_in_the_middle(upstream, store, experiment, monkeypatch, capsys):
    """As when a container is started on another machine: the name is looked up for each new connection."""
    address, real = ["127.0.0.1"], socket.getaddrinfo

    def look_up(host, *arguments, **options):
        return real(address[0] if host == "mlflow.test" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with contextlib.ExitStack() as servers:
        first = servers.enter_context(fault_server(upstream.uri))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://mlflow.test:{first.port}")
        with trained(experiment) as log:
            training = Training(log)
            training.run()
            first.close()
            training.run(until=lambda: "Work continues" in capsys.readouterr().err)
            servers.enter_context(fault_server(upstream.uri, host="127.0.0.2", port=first.port))
            address[0] = "127.0.0.2"
            training.run()
    assert steps_of(store, log.id) == list(range(1, training.step + 1))


def test_the_next_attempt_may_be_given_another_address(upstream, store, experiment, monkeypatch):
    monkeypatch.setattr(run_log, "_LAST_SECONDS", 1.0)
    with fault_server(upstream.uri) as first:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", first.uri)
        with pytest.raises(KeyboardInterrupt), trained(experiment) as log:
            log.metrics({"loss/depth": 1.0}, 1)
            first.faults = [Fault("reset")]
            log.metrics({"loss/depth": 0.5}, 2)
            raise KeyboardInterrupt
    with fault_server(upstream.uri) as second:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", second.uri)
        with trained(experiment, points=log.points) as again:
            again.metrics({"loss/depth": 0.25}, 3)
    assert again.id == log.id and steps_of(store, log.id) == [1, 2, 3]
