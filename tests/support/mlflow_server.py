"""A real `mlflow server` on loopback, and a server before it that answers as bad networks and strict proxies do."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import os
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tests.support import forked


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """A real `mlflow server` that can be killed and started again. database: its address, for another than SQLite."""

    def __init__(self, folder: Path, database: str | None = None):
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.process: forked.Process | None = None
        self.database = database or f"sqlite:///{folder}/served.db"

    def start(self) -> None:
        command = ["mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "served")]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes for jobs that nobody gives it
        self.process = forked.Process(self.folder, command, environment, self.folder / "server.log")
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Fault:
    """What happens to the next `times` requests whose path contains `path`, of this method if one is given.

    kind: `hang` takes the request and never answers; `late` does it after `seconds`, long after the client has gone;
    `lost` does it and closes the connection without an answer; `reset` does nothing and resets the connection; a number
    is answered as the status.
    """

    kind: str | int
    path: str = ""
    times: int = 1_000_000
    method: str | None = None
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class FaultServer:
    """Passes requests on to `upstream`, except where it has a fault for them or the client does not say who it is.

    tls: with which it speaks HTTPS. authorization: the header that a client has to send. It takes requests as a proxy
    too. `requests` lists (method, path) of all that came.
    """

    def __init__(
        self,
        upstream: str,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        authorization: str | None = None,
    ):
        self.upstream, self.authorization = urlsplit(upstream), authorization
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Quiet((host, port), handler)
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._http.server_address[1]
        self.uri = f"{'https' if tls else 'http'}://{host}:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.path in path and fault.method in (None, method):
                fault.times -= 1
                return fault
        return None

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body of an answer waits 40 ms for the client to acknowledge the headers
    owner: FaultServer

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.owner.requests.append((self.command, self.path))
        if self.owner.closing.is_set():
            return self._reset()
        if self.owner.authorization and self.headers.get("Authorization") != self.owner.authorization:
            return self._answer(401, b"who are you?", {"WWW-Authenticate": 'Basic realm="mlflow"'})
        fault = self.owner.fault(self.command, self.path)
        if fault is None:
            return self._answer(*self._pass_on(body))
        if isinstance(fault.kind, int):
            return self._answer(fault.kind, b"<html>something is wrong</html>", fault.headers)
        if fault.kind in ("hang", "late"):
            self.owner.closing.wait(fault.seconds or None)
        if fault.kind in ("late", "lost"):
            self._pass_on(body)
        return self._reset()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  (names that http.server asks for)

    def _pass_on(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        target = urlsplit(self.path)._replace(scheme="", netloc="").geturl()  # a proxy is sent a whole address
        headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Connection")}
        upstream = http.client.HTTPConnection(self.owner.upstream.hostname, self.owner.upstream.port, timeout=60)
        try:
            upstream.request(self.command, target, body, headers)
            answer = upstream.getresponse()
            return answer.status, answer.read(), {"Content-Type": answer.getheader("Content-Type", "")}
        except OSError as error:
            return 502, str(error).encode(), {}
        finally:
            upstream.close()

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Tests read what the pipeline prints."""


@contextlib.contextmanager
def fault_server(upstream: str, **options: object) -> Iterator[FaultServer]:
    server = FaultServer(upstream, **options)
    try:
        yield server
    finally:
        server.close()


def basic(user: str, password: str) -> str:
    """The header of basic authentication."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


class Authority:
    """A certificate authority of one's own, in a folder: `ca.pem`, and certificates that it signs."""

    def __init__(self, folder: Path):
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name, self._serial = _name("test authority"), 1
        self.certificate = folder / "ca.pem"
        self.certificate.write_bytes(_pem(self._sign(self._name, self._key.public_key(), None)))

    def context(self, *hosts: str, clients: bool = False) -> ssl.SSLContext:
        """What a server that goes by these names speaks TLS with; clients: it asks them for a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.issue("server", *hosts))
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.certificate)
        return context

    def issue(self, name: str, *hosts: str) -> Path:
        """A file with a key and a certificate for these addresses or names."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        file = self.folder / f"{name}.pem"
        file.write_bytes(secret + _pem(self._sign(_name(name), key.public_key(), hosts)))
        return file

    def _sign(self, subject, public_key, hosts: tuple[str, ...] | None):
        import ipaddress

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(public_key)
        builder = builder.serial_number(self._serial).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(hosts is None, None), critical=True)
        if hosts:
            names = [
                x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
                for host in hosts
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._serial += 1
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str):
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)
