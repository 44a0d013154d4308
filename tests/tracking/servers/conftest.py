"""One real MLflow server, and what stands before it."""

import mlflow
import pytest

from pipeline.tracking import metric_queue
from tests.support.mlflow_server import Authority, Server, fault_server

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
    """A project root, an environment without the settings of whoever runs the tests, and short waits."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # for ~/.mlflow/credentials and ~/.netrc
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(metric_queue, "_SEND_SECONDS", 0.05)
    monkeypatch.setattr(metric_queue, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(metric_queue, "_LONGEST_PAUSE", 0.1)
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
