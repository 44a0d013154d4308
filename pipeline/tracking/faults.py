"""What goes wrong between this process and MLflow's store, as one line with its remedy.

Three kinds, since each is dealt with otherwise. TrackingUnavailable: it may go well later, so it is tried again.
TrackingBlocked: somebody has to fix something first, so a stage that needs the store ends at once, while a training
continues. TrackingError: the store refuses what it was asked.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from typing import NoReturn, TypeVar

import requests
import sqlalchemy.exc
import urllib3.exceptions

from pipeline.core.errors import PipelineError, TrackingError
from pipeline.tracking.address import database, is_server, tracking_uri, without_password
from pipeline.tracking.database_faults import describe
from pipeline.tracking.metric_queue import TrackingBlocked, TrackingUnavailable

_LATER = (408, 429, 500, 502, 503, 504)
_LONGEST = 300  # characters of what others say

Kind = TypeVar("Kind", bound=BaseException)


def raise_plainly(error: Exception, status: int, reason: str) -> NoReturn:
    """Raise `error`, of MLflow's client or of a library below it, as one of the three kinds.

    status: the HTTP status that it stands for. reason: what the store said.
    """
    causes = list(_causes(error))
    if refused := _first(causes, sqlite3.Error):
        _raise_database(refused)
    if failed := _first(causes, sqlalchemy.exc.DBAPIError):
        _raise_other_database(failed)
    name = f"MLflow's store {without_password(tracking_uri())}"
    if refusal := _refusal(causes, status, reason):
        raise TrackingBlocked(f"{name} can't be used: {without_password(refusal)}")
    if status >= 500 or status in _LATER:
        raise TrackingUnavailable(f"{name} is unreachable ({_cause(causes, status, reason)})")
    raise TrackingError(f"{name} refuses: {_shortened(reason)}")


def _raise_database(fault: sqlite3.Error) -> NoReturn:
    file = database()
    if file is None:  # an address with options, sqlite:///file:...?mode=ro
        raise TrackingBlocked(f"MLflow's store {tracking_uri()} can't be used: {fault}")
    text, waiting_helps = describe(file, fault)
    raise (TrackingUnavailable if waiting_helps else TrackingBlocked)(text)


def _raise_other_database(fault: sqlalchemy.exc.DBAPIError) -> NoReturn:
    """PostgreSQL and others, which a process may open itself, without a server of MLflow."""
    name, said = f"MLflow's store {without_password(tracking_uri())}", _shortened(str(fault.orig))
    if any(words in said for words in ("authentication failed", "pg_hba.conf", "does not exist", "Access denied")):
        raise TrackingBlocked(f"{name} can't be used: {said}; correct MLFLOW_TRACKING_URI")
    if isinstance(fault, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
        raise TrackingUnavailable(f"{name} is unreachable ({said})")
    raise TrackingBlocked(f"{name} can't be used: {said}")


def _refusal(causes: list[BaseException], status: int, reason: str) -> str | None:
    """What a person has to fix before the server can be used, and how; None where it is not that."""
    if untrusted := _first(causes, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({untrusted.verify_message}). Where an authority of your own signed it, "
            "name that one's file in MLFLOW_TRACKING_SERVER_CERT_PATH, or in REQUESTS_CA_BUNDLE for all programs"
        )
    reason_of_tls = str(getattr(_first(causes, ssl.SSLError), "reason", None))  # those that OpenSSL raised have one
    if reason_of_tls in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return "it does not speak TLS there: write http:// in MLFLOW_TRACKING_URI, or the port of https"
    if "CERTIFICATE_REQUIRED" in reason_of_tls:
        return "it asks for a certificate of yours: name it, with its key, in MLFLOW_TRACKING_CLIENT_CERT_PATH"
    if any("407 Proxy Authentication" in str(each) for each in causes):
        return "the proxy asks for a password: HTTPS_PROXY=http://<user>:<password>@<host>:<port>, or NO_PROXY=<server>"
    if (local := _first(causes, OSError)) and "TLS CA certificate" in str(local):  # requests looks for it itself
        return f"{_shortened(str(local))}; correct MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE"
    if status == 401:
        return f"{_identity()} (401)"
    if status == 403:
        return f"it forbids this to {_who()} (403): {_shortened(reason)}; ask who runs the server"
    if is_server() and "not in a valid JSON format" in reason:
        return "something answers there, but not as MLflow does: a login page, or another program's port"
    return None


def _identity() -> str:
    """What to do about a server that does not know who is asking."""
    if os.environ.get("MLFLOW_TRACKING_AUTH"):
        return "it does not accept what the plug-in named in MLFLOW_TRACKING_AUTH gives: log in there again"
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD"))
    if user and password:
        return (
            f"it does not accept the user name {user} with this password: correct MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    if user or password:
        return f"MLFLOW_TRACKING_{'PASSWORD' if user else 'USERNAME'} is missing beside the other of the two: set it"
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return "it does not accept the token in MLFLOW_TRACKING_TOKEN, which may have expired: get another"
    return (
        "it asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN "
        "(if ~/.mlflow/credentials or ~/.netrc name you, correct them)"
    )


def _who() -> str:
    return f"the user {user}" if (user := os.environ.get("MLFLOW_TRACKING_USERNAME")) else "you"


def _cause(causes: list[BaseException], status: int, reason: str) -> str:
    """Why a store is unreachable, in a few words."""
    if _first(causes, socket.gaierror):
        return "the name of its host is not known"
    if fault := _first(causes, urllib3.exceptions.ResponseError):  # "too many 503 error responses"
        return f"it answers {''.join(filter(str.isdigit, str(fault)))}"
    if _first(causes, urllib3.exceptions.ProxyError):
        return f"the proxy of HTTPS_PROXY or HTTP_PROXY does not connect: {causes[-1]}"
    if _first(causes, ssl.SSLEOFError):
        return (
            "it closed the connection while TLS began; where it asks for a certificate of yours, name that, with its "
            "key, in MLFLOW_TRACKING_CLIENT_CERT_PATH"
        )
    if reasons := [each.strerror for each in causes if isinstance(each, OSError) and each.strerror]:
        return reasons[-1]
    if _first(causes, requests.Timeout) or _first(causes, urllib3.exceptions.TimeoutError):
        return f"no answer within {os.environ.get('MLFLOW_HTTP_REQUEST_TIMEOUT')} s"
    if _first(causes, urllib3.exceptions.ProtocolError):
        return "it closed the connection without an answer"
    return f"it answers {status}: {_shortened(reason)}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all below it, inwards: what was chained by Python, by urllib3 (`reason`) and by requests (`args`).

    An error of ours ends the search: one before, which happened to be dealt with when this one came.
    """
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if any(each is other for other in seen) or isinstance(each, PipelineError | TrackingUnavailable):
            continue
        seen.append(each)
        yield each
        inner = [each.__cause__, each.__context__, getattr(each, "reason", None), getattr(each, "orig", None)]
        waiting += [other for other in (*inner, *each.args) if isinstance(other, BaseException)]


def _first(causes: list[BaseException], kind: type[Kind]) -> Kind | None:
    return next((each for each in causes if isinstance(each, kind)), None)


def _shortened(text: str) -> str:
    return without_password(" ".join(text.split()))[:_LONGEST]
