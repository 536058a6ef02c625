"""Files over links that break and from servers that lie: whole, or an error; never too much."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from appliance.errors import (
    ApplianceError,
    CorruptError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
)
from appliance.kit import transfer
from appliance.kit.remote import Remote
from appliance.kit.throttle import CHUNK, Pace, Throttle
from appliance.kit.weblink import Link, Url
from tests.fakes import web
from tests.fakes.web import Fault, Handler, WebServer

pytestmark = pytest.mark.slow

DATA = os.urandom(3 << 20)


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as made:
        made.files["/f"] = DATA
        yield made


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def remote(slept: list[float]) -> Iterator[Remote]:
    with contextlib.closing(Remote(Link(timeout_s=5, tries=3, sleep=slept.append))) as made:
        yield made


def read(remote: Remote, server: WebServer, offset: int = 0, name: str = "/f") -> bytes:
    with transfer.open_file(remote, Url.parse(server.url + name), offset) as file:
        return file.read()


def get(remote: Remote, server: WebServer, cap: int = 4 << 20) -> bytes:
    return remote.get(Url.parse(f"{server.url}/f"), cap)


def test_it_is_read_whole_from_any_place(remote: Remote, server: WebServer) -> None:
    assert read(remote, server) == DATA
    assert read(remote, server, 1 << 20) == DATA[1 << 20 :]
    assert server.gets("/f")[-1]["Range"] == f"bytes={1 << 20}-"


def test_from_its_end_on_there_is_nothing(remote: Remote, server: WebServer) -> None:
    for offset in (len(DATA), len(DATA) + 5):
        assert read(remote, server, offset) == b""


def test_a_server_without_ranges_is_read_past_what_is_here(
    remote: Remote, server: WebServer
) -> None:
    server.ranges = False
    assert read(remote, server, 1 << 20) == DATA[1 << 20 :]
    assert read(remote, server, len(DATA) + 5) == b""


def test_after_a_cut_it_goes_on_from_where_it_was(
    remote: Remote, server: WebServer, slept: list[float]
) -> None:
    server.faults["/f"] = [web.cut_after(1 << 20), web.cut_after(100), web.cut_after(1 << 20)]
    assert read(remote, server) == DATA
    asked = server.gets("/f")
    assert [h.get("Range") for h in asked] == [
        None,
        *(f"bytes={at}-" for at in (1 << 20, (1 << 20) + 100, (2 << 20) + 100)),
    ]
    assert len({h.get("If-Range") for h in asked[1:]}) == 1
    assert len(slept) == 3


def test_the_same_from_a_server_without_ranges(remote: Remote, server: WebServer) -> None:
    server.ranges = False
    server.faults["/f"] = [web.cut_after(1 << 20), web.cut_after(2 << 20)]
    assert read(remote, server) == DATA


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("tells_version", [True, False])
def test_a_file_that_became_another_is_noticed(
    remote: Remote, server: WebServer, *, ranges: bool, tells_version: bool
) -> None:
    def changed(handler: Handler, data: bytes) -> None:
        server.files["/f"] = bytes(len(DATA) - (0 if tells_version else 1))
        web.cut_after(1 << 20)(handler, data)

    server.ranges, server.tells_version = ranges, tells_version
    server.faults["/f"] = [changed]
    with pytest.raises(CorruptError, match="became another file"):
        read(remote, server)


def test_one_that_became_shorter_than_what_is_here_too(remote: Remote, server: WebServer) -> None:
    def shrunk(handler: Handler, data: bytes) -> None:
        server.files["/f"] = b"short"
        web.cut_after(1 << 20)(handler, data)

    server.tells_version = False
    server.faults["/f"] = [shrunk]
    with pytest.raises(CorruptError, match="became another file"):
        read(remote, server)


def test_a_link_that_always_breaks_is_given_up(
    remote: Remote, server: WebServer, slept: list[float]
) -> None:
    server.faults["/f"] = [web.cut_after(10)] * 9
    with pytest.raises(PeerUnreachableError, match="the link broke") as caught:
        read(remote, server)
    assert (len(server.gets("/f")), len(slept)) == (3, 2)
    assert "try again" in str(caught.value.hint)


def test_one_that_breaks_often_but_moves_on_is_not(remote: Remote, server: WebServer) -> None:
    server.faults["/f"] = [web.cut_after(600_000)] * 9
    assert read(remote, server) == DATA


def test_a_byte_for_each_try_is_no_progress(remote: Remote, server: WebServer) -> None:
    server.faults["/f"] = [web.cut_after(1)] * 99
    with pytest.raises(PeerUnreachableError):
        read(remote, server)
    assert len(server.gets("/f")) == 3


def test_waits_grow_and_are_spread(server: WebServer) -> None:
    slept: list[float] = []
    link = Link(tries=6, first_retry_s=1, most_retry_s=4, sleep=slept.append)
    server.faults["/f"] = [web.answer(503)] * 6
    with (
        contextlib.closing(Remote(link)) as remote,
        pytest.raises(PeerUnreachableError, match="status 503"),
    ):
        get(remote, server)
    assert all(b / 10 <= s <= b for s, b in zip(slept, [1, 2, 4, 4, 4], strict=True))


def test_a_server_says_when_to_come_again(
    remote: Remote, server: WebServer, slept: list[float]
) -> None:
    server.faults["/f"] = [web.answer(429, Retry_After="7"), web.answer(503, Retry_After="9999")]
    assert get(remote, server) == DATA
    assert slept == [7, 30]


def test_nobody_there(slept: list[float]) -> None:
    with WebServer() as gone:
        url = Url.parse(f"{gone.url}/f")
    link = Link(tries=3, sleep=slept.append)
    for ask in (Remote(link).size, lambda u: Remote(link).get(u, 1)):
        with pytest.raises(PeerUnreachableError, match="refused"):
            ask(url)
    assert len(slept) == 4


@pytest.mark.parametrize("fault", [web.stall_after(0), web.stall_after(400_000), web.drip])
def test_silence_and_dripping_end(server: WebServer, fault: Fault) -> None:
    server.faults["/f"] = [fault, fault]
    link = Link(timeout_s=0.3, tries=2, sleep=lambda _: None)
    with pytest.raises(PeerUnreachableError):
        read(Remote(link), server)
    server.faults["/f"] = [fault, fault]
    with pytest.raises(PeerUnreachableError):
        get(Remote(link), server)


@pytest.mark.parametrize("fault", [web.endless_head, web.endless_patience, web.endless_trailers])
def test_what_comes_around_a_body_ends(server: WebServer, fault: Fault) -> None:
    server.faults["/f"] = [fault, fault]
    link = Link(timeout_s=0.2, tries=2, sleep=lambda _: None)
    with pytest.raises(PeerUnreachableError):
        get(Remote(link), server)


@pytest.mark.parametrize("fault", [web.endless, web.endless_chunks])
def test_endless_data_is_not_read(remote: Remote, server: WebServer, fault: Fault) -> None:
    server.faults["/f"] = [fault, fault]
    with pytest.raises(MalformedError, match="larger than 1000 bytes"):
        get(remote, server, 1000)
    with transfer.open_file(remote, Url.parse(f"{server.url}/f")) as file:
        assert len(file.read(1 << 20)) == 1 << 20
    assert server.sent < 32 << 20  # what the kernel's buffers took, not what was offered


def test_a_cap_is_a_cap(remote: Remote, server: WebServer) -> None:
    assert get(remote, server, len(DATA)) == DATA
    server.faults["/f"] = [web.chunked]
    assert get(remote, server, len(DATA)) == DATA
    for fault in (web.chunked, None):
        server.faults["/f"] = [fault] if fault else []
        with pytest.raises(MalformedError):
            get(remote, server, len(DATA) - 1)


def test_chunks_that_break_off_are_a_cut(remote: Remote, server: WebServer) -> None:
    def half(handler: Handler, data: bytes) -> None:
        handler.head(200, None, {"Transfer-Encoding": "chunked"})
        handler.put(f"{len(data):x}\r\n".encode() + data[: 1 << 20])
        handler.hang_up()

    server.faults["/f"] = [half, web.chunked]
    assert read(remote, server) == DATA


@pytest.mark.parametrize(
    ("fault", "family", "says"),
    [
        (web.answer(404), NotFoundError, "is not there"),
        (web.answer(410), NotFoundError, "is not there"),
        (web.answer(401), PeerUnreachableError, "status 401"),
        (web.answer(403), PeerUnreachableError, "status 403"),
        (web.answer(418), PeerUnreachableError, "status 418"),
        (web.packed, PeerUnreachableError, "packs it"),
        (web.without_an_end, PeerUnreachableError, "does not say where it ends"),
        (web.answer(302, Location="http://evil.invalid/"), PeerUnreachableError, "evil.invalid"),
        (web.answer(302, Location="ftp://x/"), PeerUnreachableError, "nowhere"),
        (web.answer(302, Location="http://[/"), PeerUnreachableError, "nowhere"),
    ],
)
def test_what_is_no_answer_is_not_asked_for_twice(
    remote: Remote, server: WebServer, fault: Fault, family: type[ApplianceError], says: str
) -> None:
    for ask in (read, get):
        server.faults["/f"] = [fault]
        with pytest.raises(family, match=says):
            ask(remote, server)
        assert server.faults["/f"] == []


def test_another_part_than_was_asked_for_is_refused(remote: Remote, server: WebServer) -> None:
    server.faults["/f"] = [web.wrong_part]
    with pytest.raises(PeerUnreachableError, match="another part"):
        read(remote, server, 100)


def test_redirects_on_the_same_server_are_followed(remote: Remote, server: WebServer) -> None:
    server.files["/g"] = DATA
    server.faults["/f"] = [web.answer(307, Location="/g?x=1")]
    assert read(remote, server, 7) == DATA[7:]
    server.faults["/f"] = [web.answer(302, Location="/f")] * 9
    with pytest.raises(PeerUnreachableError, match="from one place to the next"):
        read(remote, server)


def test_sizes(remote: Remote, server: WebServer) -> None:
    assert remote.size(Url.parse(f"{server.url}/f")) == len(DATA)
    assert remote.size(Url.parse(f"{server.url}/none")) is None


def test_one_line_serves_many_requests(remote: Remote, server: WebServer) -> None:
    for _ in range(5):
        assert get(remote, server) == DATA
        assert remote.size(Url.parse(f"{server.url}/f")) == len(DATA)
        assert remote.size(Url.parse(f"{server.url}/none")) is None
    assert server.connections == 1


def test_a_line_that_went_stale_is_no_failure(
    remote: Remote, server: WebServer, slept: list[float]
) -> None:
    def closing(handler: Handler, data: bytes) -> None:
        handler.head(200, len(data))
        handler.put(data)
        handler.wfile.flush()
        handler.hang_up()

    server.faults["/f"] = [closing]
    assert get(remote, server) == get(remote, server) == DATA
    assert (slept, server.connections) == ([], 2)


def test_the_throttle_pays_for_every_byte(server: WebServer) -> None:
    waited = [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    throttle = Throttle(1 << 20, monotonic=lambda: waited[0], sleep=sleep)
    with contextlib.closing(Remote(Link(), pace=Pace(throttle))) as remote:
        read(remote, server)
        assert 2.7 < waited[0] < 3.1
        get(remote, server)
        assert 5.5 < waited[0] < 6.1


class ClosedError(Exception):
    """The window."""


def test_the_gate_is_asked_before_the_bulk_and_each_chunk(server: WebServer) -> None:
    server.files["/big"] = bytes(CHUNK + (3 << 20))
    asked = [0]

    def gate() -> None:
        asked[0] += 1
        if asked[0] > 1:
            raise ClosedError

    with contextlib.closing(Remote(Link(), pace=Pace(gate=gate))) as remote:
        with transfer.open_file(remote, Url.parse(f"{server.url}/big")) as file:
            assert len(file.read(CHUNK)) == CHUNK
            with pytest.raises(ClosedError):
                file.read(1)
        with transfer.open_file(remote, Url.parse(f"{server.url}/big"), CHUNK) as file:
            assert len(file.read(1 << 20)) == 1 << 20  # what is small always passes
            with pytest.raises(ClosedError):
                file.read(1)
