"""Servers that lie, drip or never end: the download fails with their answer, soon and in little memory."""

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from pipeline.download import connection, google_drive, transfer
from pipeline.download.transfer import SourceError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\n"


@contextmanager
def server(*answers):
    """An address whose n-th connection gets the n-th answer, the last one for all that follow: bytes, or a function."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve(client, answer):
        with client, client.makefile("rb") as lines:
            request = b""
            while (line := lines.readline()) not in (b"\r\n", b""):
                request += line
            asked.append(request)
            with suppress(OSError):  # whoever asked has left
                answer(client) if callable(answer) else client.sendall(answer)

    def accept():
        for i in range(10_000):
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client, answers[min(i, len(answers) - 1)]), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.zip", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def endless(head: bytes, piece: bytes, pause: float = 0.0):
    def answer(client):
        client.sendall(head)
        while True:
            client.sendall(piece)
            time.sleep(pause)

    return answer


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(connection, "WINDOW_SECONDS", 0.2)


BAD = {
    "a byte at a time": (endless(OK + b"Content-Length: 1000000000\r\n\r\n", b"x", 0.01), "bytes in 0 s"),
    "a header at a time": (endless(OK, b"X", 0.01), "bytes in 0 s"),
    "headers without end": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999), "of headers"),
    "trailers without end": (
        endless(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n" * 9999), "or trailers",
    ),
    "a chunk length without end": (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 9999), "."),
    "a size beyond all": (OK + b"Content-Length: 99999999999999999999\r\n\r\nx", "it says that the file has"),
    "ftp": (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/a\r\n\r\n", "'ftp://127.0.0.1/a', which is no http"),
    "a file": (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "file:///etc/passwd"),
    "round and round": (b"HTTP/1.1 302 Found\r\nLocation: /a.zip\r\n\r\n", "HTTP 302"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_it_ends_soon_with_the_reason(tmp_path, quick, kind):
    answer, reason = BAD[kind]
    began = time.monotonic()
    with server(answer) as (url, _), pytest.raises(SourceError, match=reason):
        transfer.download(url, tmp_path / "part", pause=0.001)
    assert time.monotonic() - began < 20
    assert not (tmp_path / "part").exists() or (tmp_path / "part").stat().st_size < 20_000


def test_the_page_of_a_redirect_is_not_read(tmp_path):
    page = endless(b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n", b"<html>" * 10_000)
    with server(page, OK + b"Content-Length: 3\r\n\r\nabc") as (url, asked):
        transfer.download(url, tmp_path / "part", pause=0.001)
        assert (tmp_path / "part").read_bytes() == b"abc" and len(asked) == 2


def test_more_than_the_size_that_is_known_is_another_file(tmp_path):
    chunked = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n")
    with server(chunked) as (url, _), pytest.raises(SourceError, match="another file: more than 5,000 bytes came"):
        transfer.download(url, tmp_path / "part", size=5000, pause=0.001)
    assert not (tmp_path / "part").exists()


def test_a_stream_without_size_does_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_FILE", 100_000)
    with (
        server(endless(OK + b"\r\n", b"x" * 1000)) as (url, _),
        pytest.raises(SourceError, match="more than 100,000 bytes"),
    ):
        transfer.download(url, tmp_path / "part", pause=0.001)


def test_a_byte_for_each_connection_is_no_progress(tmp_path):
    head = OK + b'ETag: "1"\r\nContent-Length: 1000\r\n\r\nx'
    rest = b'HTTP/1.1 206 Partial\r\nETag: "1"\r\nContent-Range: bytes %d-999/1000\r\nContent-Length: %d\r\n\r\nx'
    answers = [head, *(rest % (i, 1000 - i) for i in range(1, 50))]
    with server(*answers) as (url, asked), pytest.raises(SourceError, match="closed after"):
        transfer.download(url, tmp_path / "part", pause=0.001)
    assert len(asked) == 5


def test_numbers_that_python_will_not_read_are_no_traceback(tmp_path):
    first = OK + b'ETag: "1"\r\nContent-Length: 1000\r\n\r\n' + b"x" * 10
    far = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes " + b"1" * 5000 + b"-9/9\r\nContent-Length: 1\r\n\r\nx"
    with server(first, far, OK + b"Content-Length: 3\r\n\r\nabc") as (url, _):
        transfer.download(url, tmp_path / "part", pause=0.001)
    assert (tmp_path / "part").read_bytes() == b"abc"


def test_a_page_of_drive_leads_to_no_file_of_this_machine(tmp_path, monkeypatch):
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    page += b'<form id="download-form" action="file:///etc/passwd"><input type="hidden" name="id" value="x"></form>'
    with server(page) as (url, _):
        monkeypatch.setattr(google_drive, "SITE", url.removesuffix("/a.zip"))
        with pytest.raises(SourceError, match="leads to 'file:///etc/passwd"):
            google_drive.download("abc", tmp_path / "part", pause=0.001)
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("validator", ["x" * 5000, "a\r\nHost: b", 5, None])
def test_what_is_kept_of_a_server_is_sent_to_it_only_in_its_form(tmp_path, validator):
    from pipeline.core import paths

    (tmp_path / "part").write_bytes(b"abc")
    paths.write_json(tmp_path / "part.json", {"validator": validator, "size": 3})
    with server(OK + b"Content-Length: 3\r\n\r\ndef") as (url, asked):
        transfer.download(url, tmp_path / "part", pause=0.001)
        assert b"If-Range" not in asked[0] and b"Range:" not in asked[0]
    assert (tmp_path / "part").read_bytes() == b"def"
