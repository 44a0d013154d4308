"""Who may use an MLflow server, and whether it is the right one: TLS, passwords, tokens, proxies."""

import ssl
import time

import pytest
import requests
import requests.auth
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from mlflow.tracking.request_auth.registry import _request_auth_provider_registry as plug_ins

from pipeline.core.errors import TrackingError
from pipeline.tracking import metric_queue, mlflow_run
from pipeline.tracking.faults import raise_plainly
from pipeline.tracking.metric_queue import TrackingUnavailable
from tests.support.mlflow_server import Fault, basic, fault_server, free_port
from tests.support.server_runs import PASSWORD, USER, check_all, record_all

pytestmark = pytest.mark.e2e


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


def test_a_connection_that_ends_while_tls_begins_may_lack_a_certificate(monkeypatch):
    """What such a server says, and that it closes, come in either order."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://127.0.0.1:1")
    ended = requests.exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
    with pytest.raises(
        TrackingUnavailable, match=r"closed the connection while TLS .*MLFLOW_TRACKING_CLIENT_CERT_PATH"
    ):
        raise_plainly(ended, 500, "")


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
