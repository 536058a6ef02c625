"""What a server answers, or fails to, becomes an object or an error of ours."""

import datetime
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.errors import (
    ApplianceError,
    BadDocumentError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
    SignatureError,
    UsageError,
)
from appliance.kit.http import HttpClient
from tests.fakes.web import Certificate, WebServer


@contextmanager
def answering(folder: Path, answer: bytes, *, timeout_s: float = 10) -> Iterator[HttpClient]:
    """Serve one request with these bytes, and close; without bytes never answer at all."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "s"))
    listener.listen(1)
    done = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            if not answer:
                done.wait(10)
                return
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # closing on what was not read would reset the answer
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield HttpClient.over_unix(folder / "s", "the node", "start it", timeout_s)
    finally:
        done.set()
        thread.join()
        listener.close()


def plain(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(*chunks: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts


def test_the_last_object_answers_a_call_and_all_of_them_a_stream(tmp_path: Path) -> None:
    lines = chunked(b'{"done":', b'1}\n{"done":2}\n') + b"0\r\n\r\n"
    with answering(tmp_path, lines) as client:
        assert list(client.objects("GET", "/")) == [{"done": 1}, {"done": 2}]
    (tmp_path / "s").unlink()
    with answering(tmp_path, plain(b'{"a":"\xc3\xbc"}\n')) as client:
        assert client.call("POST", "/", {"x": 1}) == {"a": "ü"}


def test_an_empty_answer_is_an_empty_object(tmp_path: Path) -> None:
    with answering(tmp_path, plain(b"")) as client:
        assert client.call("GET", "/") == {}


@pytest.mark.parametrize(
    ("answer", "family", "says"),
    [
        (plain(b'{"error":{"code":"bad-document","what":"x.yaml:1: no","hint":"h"}}', "400 Bad"),
         BadDocumentError, "x.yaml:1: no"),
        (plain(b'{"error":{"code":"of-a-later-release","what":"new"}}', "500 Oops"),
         ApplianceError, "new"),
        (plain(b'{"error":{"message":"no such model"}}', "404 Not Found"),
         NotFoundError, "no such model"),
        (plain(b'{"error":{"message":"bad key"}}', "401 Unauthorized"), SignatureError, "bad key"),
        (plain(b'{"error":{"message":"too long"}}', "400 Bad"), UsageError, "too long"),
        (plain(b'{"error":"overloaded"}', "503 Busy"), PeerUnreachableError, "overloaded"),
        (plain(b"<html>", "502 Bad Gateway"), PeerUnreachableError, "HTTP status 502"),
        (plain(b"[]", "403 Forbidden"), SignatureError, "HTTP status 403"),
        (plain(b'{"step":1}\n{"error":{"code":"not-found","what":"gone"}}\n'),
         NotFoundError, "gone"),
        (plain(b"<html>"), MalformedError, "not JSON"),
        (plain(b"[" * 100_000), MalformedError, "not JSON"),
        (plain(b"[1]"), MalformedError, "not a JSON object"),
        (plain(b"null"), MalformedError, "not a JSON object"),
    ],
)  # fmt: skip
def test_an_error_keeps_its_family(
    tmp_path: Path, answer: bytes, family: type[ApplianceError], says: str
) -> None:
    with answering(tmp_path, answer) as client, pytest.raises(ApplianceError) as caught:
        client.call("GET", "/")
    assert type(caught.value) is family
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        plain(b'{"imported":true}')[:-17],  # the head, and then nothing: no empty success
        plain(b'{"a":1}\n{"b":2}\n')[:-8],  # cut between two lines
        chunked(b'{"a":1}\n'),
        chunked(b'{"a":1}\n')[:-4],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(
    tmp_path: Path, answer: bytes
) -> None:
    with (
        answering(tmp_path, answer) as client,
        pytest.raises(PeerUnreachableError, match="the node at") as caught,
    ):
        client.call("GET", "/")
    assert caught.value.hint == "start it"
    assert caught.value.__cause__ is not None


def test_objects_that_came_before_the_break_are_handed_out(tmp_path: Path) -> None:
    with answering(tmp_path, chunked(b'{"a":1}\n')) as client:
        found = client.objects("GET", "/")
        assert next(found) == {"a": 1}
        with pytest.raises(PeerUnreachableError):
            next(found)


def test_a_server_that_never_answers_costs_a_deadline(tmp_path: Path) -> None:
    with (
        answering(tmp_path, b"", timeout_s=0.05) as client,
        pytest.raises(PeerUnreachableError, match="timed out"),
    ):
        client.call("GET", "/")


@pytest.mark.parametrize("name", ["none", "x" * 200])
def test_nobody_at_the_socket_is_a_peer_that_cannot_be_reached(tmp_path: Path, name: str) -> None:
    client = HttpClient.over_unix(tmp_path / name, "the node", "start it", 1)
    with pytest.raises(PeerUnreachableError):
        client.call("GET", "/")


@pytest.mark.parametrize(
    "url",
    ["", "hub", "ftp://hub", "http://", "http://hub:many", "http://hub:99999", "http://[::1"],
)
def test_what_is_no_address_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of the hub") as caught:
        HttpClient.over_tcp(url, "the hub", "")
    assert caught.value.hint == "http://HOST:PORT or https://HOST:PORT"


def test_over_https_a_named_authority_is_trusted_without_the_dates_and_no_other(
    tmp_path: Path,
) -> None:
    begins = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    own = Certificate(tmp_path, begins=begins, ends=begins + datetime.timedelta(days=1))
    with WebServer(tls=own) as server:
        server.files["/api"] = b'{"answer": 42}'
        ca = own.ca_file.read_text()
        client = HttpClient.over_tcp(server.url, "the hub", "", ca=(ca,))
        assert client.call("GET", "/api") == {"answer": 42}
        stranger = HttpClient.over_tcp(server.url, "the hub", "")
        with pytest.raises(PeerUnreachableError, match="certificate verify failed"):
            stranger.call("GET", "/api")


def test_a_token_is_sent_over_tcp() -> None:
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(plain(b"{}"))

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        client = HttpClient.over_tcp(f"http://127.0.0.1:{port}", "the hub", "", token="t-1")
        assert client.call("GET", "/x") == {}
        thread.join()
    assert b"Authorization: Bearer t-1\r\n" in seen[0]
