"""MLflow servers as they are: behind TLS and passwords, slow, broken, gone for a while, back at another address."""

import contextlib
import os
import socket
import time

import mlflow
import pytest
import requests.auth
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from mlflow.tracking.request_auth.registry import _request_auth_provider_registry as plug_ins

from pipeline.core.errors import TrackingError
from pipeline.tracking import metric_queue, mlflow_run
from tests.support.mlflow_server import Authority, Fault, Server, basic, fault_server, free_port

pytestmark = pytest.mark.e2e

USER, PASSWORD = "ada", "open sesame"
VARIABLES = (
    "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_AUTH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy",
)  # fmt: skip


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """One real server for all tests of the file; each has an experiment of its own."""
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project root, an environment without the settings of whoever runs the tests, and waits of seconds."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # for ~/.mlflow/credentials and ~/.netrc
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(metric_queue, "_SEND_SECONDS", 0.05)
    monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 20.0)
    return tmp_path


@pytest.fixture
def proxy(upstream, monkeypatch):
    """What stands before the server, without faults yet."""
    with fault_server(upstream.uri) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield server


@pytest.fixture
def experiment(request):
    return request.node.name


@pytest.fixture
def store(upstream):
    """The server itself, to look at what has arrived."""
    return mlflow.MlflowClient(upstream.uri)


def trained(experiment, **options):
    return mlflow_run.training_run(
        mlflow_run.connect(experiment), "depth-0", "a", {"input_fingerprint": "f"}, **options
    )


def runs(store, experiment):
    found = store.get_experiment_by_name(experiment)
    return store.search_runs([found.experiment_id])


def steps_of(store, run_id, name="loss/depth"):
    return sorted(point.step for point in store.get_metric_history(run_id, name))


# -- who is asking, and whether the server is the right one ------------------------------------------------------


def record_all(experiment, folder):
    """A training that uses every kind of request."""
    (folder / "weights.bin").write_bytes(b"1" * 100_000)
    with trained(experiment) as log:
        log.params({"a": 1})
        log.metrics({"loss/depth": 1.0}, 1)
        log.artifact(folder / "weights.bin", "checkpoint")
    return log.id


def check_all(store, run_id):
    assert store.get_run(run_id).info.status == "FINISHED" and steps_of(store, run_id) == [1]
    assert [item.path for item in store.list_artifacts(run_id, "checkpoint")] == ["checkpoint/weights.bin"]


@pytest.mark.parametrize("trust", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "insecure"])
def test_a_private_authority_and_basic_authentication(
    upstream, authority, store, experiment, tmp_path, monkeypatch, trust
):
    with fault_server(upstream.uri, tls=authority.context("127.0.0.1"), authorization=basic(USER, PASSWORD)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        if trust == "insecure":
            monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        else:
            monkeypatch.setenv(trust, str(authority.certificate))
        check_all(store, record_all(experiment, tmp_path))


def test_a_token_and_a_certificate_of_ones_own(upstream, authority, store, experiment, tmp_path, monkeypatch):
    tls = authority.context("127.0.0.1", clients=True)
    with fault_server(upstream.uri, tls=tls, authorization="Bearer t0ken") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.certificate))
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(authority.issue("client")))
        check_all(store, record_all(experiment, tmp_path))


def test_a_plug_in_for_authentication(upstream, store, experiment, tmp_path, monkeypatch):
    class PlugIn(RequestAuthProvider):
        def get_name(self):
            return "test_plug_in"

        def get_auth(self):
            return requests.auth.HTTPBasicAuth(USER, PASSWORD)

    monkeypatch.setattr(plug_ins, "_registry", [PlugIn()])
    with fault_server(upstream.uri, authorization=basic(USER, PASSWORD)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "test_plug_in")
        check_all(store, record_all(experiment, tmp_path))


def test_a_proxy(upstream, proxy, store, experiment, tmp_path, monkeypatch):
    """The name of the server is known to the proxy alone."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid:5000")
    monkeypatch.setenv("HTTP_PROXY", proxy.uri)
    check_all(store, record_all(experiment, tmp_path))
    assert any(path.startswith("http://mlflow.invalid:5000/") for _, path in proxy.requests)


def test_what_no_proxy_names_is_asked_directly(proxy, store, experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    check_all(store, record_all(experiment, tmp_path))


REFUSED = {
    "nobody": ({}, r"asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or .*TOKEN"),
    "password": (
        {"USERNAME": USER, "PASSWORD": "x"},
        r"user name ada with this password: correct MLFLOW_TRACKING_USER",
    ),
    "half": ({"USERNAME": USER}, r"MLFLOW_TRACKING_PASSWORD is missing"),
    "token": ({"TOKEN": "x"}, r"token in MLFLOW_TRACKING_TOKEN, which may have expired: get another \(401\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_who_is_not_let_in_is_told_why_at_once(upstream, experiment, monkeypatch, kind):
    variables, message = REFUSED[kind]
    with fault_server(upstream.uri, authorization=basic(USER, PASSWORD)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        for name, value in variables.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        with pytest.raises(TrackingError, match=message) as told:
            mlflow_run.connect(experiment)
        with pytest.raises(TrackingError, match=message), mlflow_run.reader() as client:
            client.search_experiments()
    assert "Nothing was started" in str(told.value) and "\n" not in str(told.value)
    assert PASSWORD not in str(told.value)
    assert len(server.requests) == 2, "once for each: an account may be locked after some wrong passwords"


def test_what_a_user_may_not_do(proxy, experiment, monkeypatch):
    proxy.faults = [Fault(403)]
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    with pytest.raises(TrackingError, match=r"forbids this to the user ada \(403\).*ask who runs the server"):
        mlflow_run.connect(experiment)


UNTRUSTED = {
    "unknown": ((), {}, r"not trusted \(.*\)\. Where an authority of your own .* MLFLOW_TRACKING_SERVER_CERT_PATH"),
    "name": (("example.org",), {"SERVER_CERT_PATH": "ca.pem"}, r"not trusted \(IP address mismatch"),
    "no file": ((), {"SERVER_CERT_PATH": "none.pem"}, r"none\.pem; correct MLFLOW_TRACKING_SERVER_CERT_PATH"),
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_a_certificate_that_is_not_trusted_is_told_at_once(upstream, authority, experiment, monkeypatch, kind):
    names, variables, message = UNTRUSTED[kind]
    with fault_server(upstream.uri, tls=authority.context(*(names or ("127.0.0.1",)))) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        for name, value in variables.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", str(authority.folder / value))
        began = time.monotonic()
        with pytest.raises(TrackingError, match=message) as told:
            mlflow_run.connect(experiment)
    assert time.monotonic() - began < 5 and "\n" not in str(told.value)


def test_a_server_that_asks_for_a_certificate(upstream, authority, experiment, monkeypatch):
    with fault_server(upstream.uri, tls=authority.context("127.0.0.1", clients=True)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.certificate))
        monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 2.0)
        with pytest.raises(TrackingError, match=r"MLFLOW_TRACKING_CLIENT_CERT_PATH"):
            mlflow_run.connect(experiment)


def test_https_where_there_is_none(proxy, experiment, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri.replace("http:", "https:"))
    with pytest.raises(TrackingError, match=r"does not speak TLS there: write http://"):
        mlflow_run.connect(experiment)


def test_a_page_instead_of_mlflow(proxy, experiment):
    proxy.faults = [Fault(200)]
    with pytest.raises(TrackingError, match=r"not as MLflow does: a login page"):
        mlflow_run.connect(experiment)


def test_no_message_holds_a_password(upstream, experiment, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:sesame@127.0.0.1:{free_port()}")
    monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(TrackingError, match=r"http://ada:\*\*\*@127.0.0.1:\d+ is unreachable \(Connection refused\)"):
        mlflow_run.connect(experiment)


# -- a server that fails for a while ------------------------------------------------------------------------------

FAILURES = {
    "500": Fault(500), "502": Fault(502), "503": Fault(503), "429": Fault(429, headers={"Retry-After": "3600"}),
    "reset": Fault("reset"), "hang": Fault("hang"), "lost": Fault("lost"),
}  # fmt: skip


def failing(kind, **changes):
    return Fault(**(vars(FAILURES[kind]) | {"headers": dict(FAILURES[kind].headers)} | changes))


@pytest.mark.parametrize("kind", FAILURES)
def test_a_stage_waits_for_a_server_that_fails_when_it_starts(proxy, store, experiment, kind, capsys):
    proxy.faults = [failing(kind, times=2)]
    with trained(experiment) as log:
        pass
    assert [run.info.run_id for run in runs(store, experiment)] == [log.id]
    assert capsys.readouterr().err.count("tried again for 20 s") == 1


@pytest.mark.parametrize("kind", FAILURES)
def test_a_training_goes_on_while_the_server_fails(proxy, store, experiment, kind, capsys):
    """Each point arrives once, and no call of the training waits."""
    slowest = 0.0
    with trained(experiment) as log:
        for step in range(1, 301):
            if step == 50:
                proxy.faults = [failing(kind)]
            if step == 200:
                proxy.faults = []
            began = time.monotonic()
            log.metrics({"loss/depth": 1 / step, "learning_rate": 0.1}, step)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.01)
    assert slowest < 0.5, "training does not wait for the server"
    assert store.get_run(log.id).info.status == "FINISHED"
    for name in ("loss/depth", "learning_rate"):
        assert steps_of(store, log.id, name) == list(range(1, 301))
    told = capsys.readouterr().err
    assert "Work continues" in told and "Traceback" not in told


@pytest.mark.parametrize("kind", FAILURES)
def test_a_server_that_fails_at_the_end_gets_all_in_the_next_attempt(proxy, store, experiment, kind, monkeypatch):
    expected = pytest.raises(TrackingError, match=r"for 2 s\. Nothing that was computed is lost.*`dvc repro` resumes")
    with expected, trained(experiment) as log:
        log.metrics({"loss/depth": 1.0}, 1)
        proxy.faults = [failing(kind)]
        log.metrics({"loss/depth": 0.5}, 2)
        monkeypatch.setattr(metric_queue, "PATIENCE_SECONDS", 2.0)
        monkeypatch.setattr(mlflow_run, "_LAST_SECONDS", 1.0)
    proxy.faults = []
    with trained(experiment, points=log.points) as again:
        again.metrics({"loss/depth": 0.25}, 3)
    assert again.id == log.id and steps_of(store, log.id) == [1, 2, 3]
    assert [run.info.status for run in runs(store, experiment)] == ["FINISHED"]


def test_a_failing_stage_does_not_wait_for_a_server_that_hangs(proxy, experiment, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setattr(mlflow_run, "_LAST_SECONDS", 1.0)
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
            for step in range(1, 101):
                server.authorization = basic(USER, "changed" if 20 < step < 60 else PASSWORD)
                log.metrics({"loss/depth": 1 / step}, step)
                time.sleep(0.02)
    assert steps_of(store, log.id) == list(range(1, 101))
    assert "with this password" in capsys.readouterr().err


def test_a_long_silence_is_explained(proxy, experiment, monkeypatch, capsys):
    monkeypatch.setattr(metric_queue, "_SILENT_SECONDS", 0.2)
    proxy.faults = [Fault("hang", times=1)]
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


def test_a_run_that_is_made_after_it_was_given_up_is_deleted(proxy, store, experiment):
    """The server made it late: when the client looked for it, there was none yet."""
    proxy.faults = [Fault("late", "runs/create", times=1, seconds=3)]
    with trained(experiment) as log:
        log.metrics({"loss/depth": 1.0}, 1)
        while len(runs(store, experiment)) < 2:
            time.sleep(0.1)
    assert [run.info.run_id for run in runs(store, experiment)] == [log.id]


def test_an_experiment_whose_making_was_not_answered(proxy, store, experiment):
    proxy.faults = [Fault("lost", "experiments/create", times=1)]
    assert mlflow_run.connect(experiment) == store.get_experiment_by_name(experiment).experiment_id


def test_a_restored_run_whose_making_was_not_answered(proxy, store, experiment):
    proxy.faults = [Fault("lost", "runs/create", times=1)]
    with mlflow_run.continued_run(mlflow_run.connect(experiment), "depth", 0, "0" * 64) as log:
        log.scores({"depth/rmse": 1.0}, 1)
    assert [run.info.run_id for run in runs(store, experiment)] == [log.id]


@pytest.mark.parametrize("path", ["runs/log-batch", "runs/update", "artifacts"])
def test_what_arrived_without_an_answer_is_there_once(proxy, store, experiment, tmp_path, path):
    proxy.faults = [Fault("lost", path, times=2, method="PUT" if path == "artifacts" else "POST")]
    check_all(store, record_all(experiment, tmp_path))


def test_mlflows_own_retries_are_off(monkeypatch):
    """Whatever the environment says: they would send again what may have arrived."""
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


# -- another address ----------------------------------------------------------------------------------------------


def test_a_server_whose_name_leads_elsewhere_in_the_middle(upstream, store, experiment, monkeypatch):
    """As when a container is started on another machine: the name is looked up for each new connection."""
    address, real = ["127.0.0.1"], socket.getaddrinfo

    def look_up(host, *arguments, **options):
        return real(address[0] if host == "mlflow.test" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with contextlib.ExitStack() as servers:
        first = servers.enter_context(fault_server(upstream.uri))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://mlflow.test:{first.port}")
        with trained(experiment) as log:
            for step in range(1, 151):
                if step == 50:
                    first.close()
                if step == 100:
                    servers.enter_context(fault_server(upstream.uri, host="127.0.0.2", port=first.port))
                    address[0] = "127.0.0.2"
                log.metrics({"loss/depth": 1 / step}, step)
                time.sleep(0.01)
    assert steps_of(store, log.id) == list(range(1, 151))


def test_the_next_attempt_may_be_given_another_address(upstream, store, experiment, monkeypatch):
    monkeypatch.setattr(mlflow_run, "_LAST_SECONDS", 1.0)
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
