"""Imports over links that break, from servers that lie: resumed, or refused, never half."""

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle.media.http_medium import HttpMedium
from appliance.bundle.media.pace import WindowClosedError
from appliance.bundle.take.accept import Imported
from appliance.errors import (
    ApplianceError,
    CorruptError,
    IncompleteError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
)
from appliance.kit.throttle import Pace
from appliance.kit.weblink import Link, Login, Url
from tests.fakes import web
from tests.fakes.web import Certificate, WebServer
from tests.helpers.gguf import small_llama
from tests.helpers.importing import Seen, names
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Signer, digest_of

pytestmark = pytest.mark.slow


LINK = Link(timeout_s=5, tries=2, sleep=lambda _: None)
DRAFT = Draft(small_llama(bytes(9 << 20)))
WEIGHTS = f"/b/blobs/sha256/{digest_of(DRAFT.weights).removeprefix('sha256:')}"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Iterator[WebServer]:
    with WebServer() as made:
        made.serve_folder(DRAFT.write(tmp_path_factory.mktemp("b") / "b", signer), "/b")
        yield made


@pytest.fixture
def medium(server: WebServer) -> Iterator[HttpMedium]:
    made = HttpMedium(Url.parse(f"{server.url}/b"), LINK)
    yield made
    made.close()


def run(box: Node, medium: HttpMedium) -> Imported:
    return box.importer.run(medium, "a test")


def kept(box: Node) -> int:
    return sum(path.stat().st_size for path in (box.state / "incoming").glob("*.part"))


def test_a_link_that_breaks_now_and_then_is_not_even_noticed(
    box: Node, medium: HttpMedium, server: WebServer
) -> None:
    server.faults[WEIGHTS] = [web.cut_after(3 << 20), web.cut_after(3 << 20)]
    assert run(box, medium).added == ("small:1.0.0-Q4_0",)


def test_one_that_is_gone_interrupts_and_the_next_import_goes_on(
    box: Node, medium: HttpMedium, server: WebServer
) -> None:
    server.faults[WEIGHTS] = [web.cut_after(5 << 20), web.cut_after(0), web.cut_after(0)]
    with pytest.raises(IncompleteError, match="the link broke") as caught:
        run(box, medium)
    assert "goes on from here" in str(caught.value.hint)
    assert names(box) == []
    had = kept(box)
    assert had >= 4 << 20
    server.faults.clear()
    server.asked.clear()
    assert run(box, medium).added == ("small:1.0.0-Q4_0",)
    (headers,) = server.gets(WEIGHTS)
    begin = int(headers["Range"].removeprefix("bytes=").rstrip("-"))
    assert 4 << 20 <= begin <= had
    assert kept(box) == 0


def test_a_closed_window_interrupts_and_keeps_what_is_here(box: Node, server: WebServer) -> None:
    medium = HttpMedium(Url.parse(f"{server.url}/b"), LINK, Pace(gate=closed))
    with pytest.raises(WindowClosedError):
        run(box, medium)
    medium.close()
    assert names(box) == []

    assert 0 < kept(box) < 1 << 20  # what is small came; signatures and space were judged


def closed() -> None:
    raise WindowClosedError("closed", None, hint="wait")


def test_other_bytes_are_refused_and_nothing_stays(
    box: Node, medium: HttpMedium, server: WebServer
) -> None:
    before = Seen.of(box).without_trust()
    server.files[WEIGHTS] = bytes(len(DRAFT.weights))
    with pytest.raises(CorruptError):
        run(box, medium)
    assert Seen.of(box).without_trust() == before


def test_a_blob_that_is_replaced_while_it_comes_is_refused(
    box: Node, medium: HttpMedium, server: WebServer
) -> None:
    def replaced(handler: web.Handler, data: bytes) -> None:
        server.files[WEIGHTS] = bytes(len(data))
        web.cut_after(1 << 20)(handler, data)

    server.faults[WEIGHTS] = [replaced]
    with pytest.raises(CorruptError, match="became another file"):
        run(box, medium)
    assert kept(box) == 0


@pytest.mark.parametrize("fault", [web.endless, web.endless_chunks])
def test_endless_data_is_refused_at_the_signed_length(
    box: Node, medium: HttpMedium, server: WebServer, fault: web.Fault
) -> None:
    server.faults[WEIGHTS] = [fault]
    with pytest.raises(CorruptError):
        run(box, medium)
    assert kept(box) == 0
    assert server.sent < len(DRAFT.weights) + (32 << 20)


@pytest.mark.parametrize("name", ["tuf/timestamp.json", "tuf/1.snapshot.json", "bundle.json"])
def test_endless_metadata_is_refused_at_its_cap(
    box: Node, medium: HttpMedium, server: WebServer, name: str
) -> None:
    server.faults[f"/b/{name}"] = [web.endless_chunks]
    with pytest.raises(MalformedError, match="larger than"):
        run(box, medium)


def test_a_server_that_answers_nothing_more_does_not_pass_for_the_end_of_the_root_chain(
    box: Node, medium: HttpMedium
) -> None:
    def gone(path: str) -> int | None:
        raise IncompleteError(path)

    real = medium.size
    medium.size = lambda path: gone(path) if "root" in path else real(path)  # type: ignore[method-assign]
    with pytest.raises(IncompleteError):
        run(box, medium)


@pytest.mark.parametrize(
    ("faults", "family"),
    [
        ([web.answer(503), web.answer(503)], IncompleteError),
        ([web.answer(401)], IncompleteError),
        ([web.answer(404)], IncompleteError),
        ([web.answer(302, Location="https://evil.invalid/")], IncompleteError),
        ([web.packed], IncompleteError),
    ],
)
def test_whatever_a_server_says_a_medium_raises_what_media_do(
    medium: HttpMedium, server: WebServer, faults: list[web.Fault], family: type[ApplianceError]
) -> None:
    server.faults["/b/bundle.json"] = list(faults)
    with pytest.raises(family):
        medium.read("bundle.json", 100)
    server.faults["/b/bundle.json"] = list(faults)
    with pytest.raises(family):
        medium.open("bundle.json")


def test_a_wrong_address_is_told_from_a_bad_link(server: WebServer, medium: HttpMedium) -> None:
    medium.reach()
    wrong = HttpMedium(Url.parse(f"{server.url}/c"), LINK)
    with pytest.raises(NotFoundError, match="there is no bundle at http://"):
        wrong.reach()
    wrong.close()
    with WebServer() as gone:
        url = Url.parse(gone.url)
    with pytest.raises(PeerUnreachableError):
        HttpMedium(url, LINK).reach()
    with pytest.raises(IncompleteError):
        HttpMedium(url, LINK).size("bundle.json")


def test_an_account_is_sent_where_nobody_reads_along_and_shown_nowhere(server: WebServer) -> None:
    text = server.url.replace("http://", "http://me:secret@") + "/b?key=secret"
    medium = HttpMedium(Url.parse(text), LINK)
    assert "secret" not in medium.name
    with pytest.raises(MalformedError) as caught:
        medium.read("bundle.json", 1)
    assert "secret" not in str(caught.value)
    medium.close()
    assert server.gets("/b/bundle.json")[0]["Authorization"] == "Basic bWU6c2VjcmV0"


def test_an_account_does_not_travel_in_the_open() -> None:
    with WebServer() as proxy:  # stands for whoever reads along
        medium = HttpMedium(Url.parse("http://far.invalid/b"), LINK, login=Login("me", "secret"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("http_proxy", proxy.url)
            assert medium.size("bundle.json") is None
        medium.close()
    assert "Authorization" not in proxy.asked[0][2]


def test_an_account_is_for_its_own_server_only(server: WebServer, tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    certificate = Certificate(tmp_path, begins=now, ends=now + datetime.timedelta(days=1))
    with WebServer(tls=certificate) as other:
        other.files["/x"] = b"bytes"
        server.faults["/b/bundle.json"] = [web.answer(307, Location=f"{other.url}/x")]
        link = replace(LINK, also_hosts=frozenset({"localhost"}), ca_file=certificate.ca_file)
        medium = HttpMedium(Url.parse(f"{server.url}/b"), link, login=Login("me", "secret"))
        assert medium.read("bundle.json", 100) == b"bytes"
        medium.close()
    assert "Authorization" in server.gets("/b/bundle.json")[0]
    assert "Authorization" not in other.asked[0][2]
