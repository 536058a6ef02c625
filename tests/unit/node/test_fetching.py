"""Bundles by every road, and over the network only in the site's hours."""

import asyncio
import datetime
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from appliance.bundle.media.pace import WindowClosedError
from appliance.bundle.media.queue import Entry, Step
from appliance.bundle.take.accept import Imported
from appliance.core import reading
from appliance.errors import IncompleteError, NotFoundError, PeerUnreachableError, UsageError
from appliance.hardware import sticks
from appliance.hardware.sticks import Stick
from appliance.node import desired
from appliance.node.fetching import Fetching, Wanted
from appliance.settings import NetworkSettings
from tests.fakes import web
from tests.fakes.web import WebServer
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import small_llama
from tests.helpers.importing import names, small_node
from tests.helpers.models import wire_site
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, Draft, Signer

DRAFT = Draft(small_llama(bytes(5 << 20)))
NOON = ISSUED.replace(hour=12, minute=0, second=0) + datetime.timedelta(days=1)
NIGHTS = {"transfer": [{"from": "22:00", "to": "05:00"}]}


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.new()


@pytest.fixture
def folder(tmp_path: Path, signer: Signer) -> Path:
    return DRAFT.write(tmp_path / "b", signer)


@pytest.fixture
def server(folder: Path) -> Iterator[WebServer]:
    with WebServer() as made:
        made.serve_folder(folder, "/b")
        yield made


@pytest.fixture
def clock() -> ScriptedClock:
    return ScriptedClock(utc=NOON)


@pytest.fixture
def box(tmp_path: Path, signer: Signer, clock: ScriptedClock) -> Iterator[Node]:
    made = small_node(tmp_path / "box", signer, clock)
    yield made
    made.close()


def set_windows(box: Node, windows: object) -> None:
    document = reading.from_wire({**wire_site(), "spec": {"windows": windows}}, "a test")
    at = "2026-11-20T00:00:00Z"
    box.ledger.record(lambda db: desired.apply_locally(db, document, "a test", at)).result()


def bring(
    box: Node, clock: ScriptedClock, source: str, *, dry: bool = False, now: bool = False
) -> tuple[Imported, list[str]]:
    told = list[Step]()
    fetching = Fetching(box.ledger, box.importer, clock, NetworkSettings(tries=1, timeout_s=5))
    found = asyncio.run(fetching.bring(Wanted(source, "a test", dry, now), told.append))
    return found, [step.doing for step in told]


def test_from_a_folder_at_any_hour(box: Node, clock: ScriptedClock, folder: Path) -> None:
    set_windows(box, NIGHTS)
    assert bring(box, clock, str(folder))[0].added == ("small:1.0.0-Q4_0",)


def test_from_a_stick_by_its_name(
    box: Node, clock: ScriptedClock, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = Stick(folder.parent, "vfat", "LINE 4", "0401", ())
    monkeypatch.setattr(sticks, "mounted", lambda: [stick])
    seen, turn = list[str](), box.importer.queue.turn

    def noted(entry: Entry) -> AbstractContextManager[None]:
        seen.append(entry.name)
        return turn(entry)

    monkeypatch.setattr(box.importer.queue, "turn", noted)
    bring(box, clock, str(folder))
    assert seen == ["stick LINE 4 0401"]


def test_over_the_network_at_once_when_there_are_no_windows(
    box: Node, clock: ScriptedClock, server: WebServer
) -> None:
    found, _ = bring(box, clock, f"{server.url}/b")
    assert (found.added, clock.slept) == (("small:1.0.0-Q4_0",), [])


def test_over_the_network_in_the_window_only(
    box: Node, clock: ScriptedClock, server: WebServer
) -> None:
    set_windows(box, NIGHTS)
    found, told = bring(box, clock, f"{server.url}/b")
    assert found.added == ("small:1.0.0-Q4_0",)
    assert any("waits for the transfer window until" in doing for doing in told)
    assert clock.utc().hour == 22


def test_at_once_when_a_person_says_so(box: Node, clock: ScriptedClock, server: WebServer) -> None:
    set_windows(box, NIGHTS)
    assert bring(box, clock, f"{server.url}/b", now=True)[0].added
    assert clock.slept == []


def test_what_would_be_imported_is_told_at_any_hour(
    box: Node, clock: ScriptedClock, server: WebServer
) -> None:
    set_windows(box, NIGHTS)
    assert bring(box, clock, f"{server.url}/b", dry=True)[0].added == ("small:1.0.0-Q4_0",)
    assert (clock.slept, names(box)) == ([], [])


def test_with_a_clock_that_is_not_proven_nobody_waits_for_ever(
    box: Node, clock: ScriptedClock, server: WebServer
) -> None:
    set_windows(box, NIGHTS)
    clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    with pytest.raises(WindowClosedError, match="not proven"):
        bring(box, clock, f"{server.url}/b")
    assert bring(box, clock, f"{server.url}/b", now=True)[0].added


def test_who_waits_lets_a_stick_pass(box: Node, server: WebServer, folder: Path) -> None:
    set_windows(box, NIGHTS)
    passed = list[Imported]()

    class Watched(ScriptedClock):
        async def sleep(self, seconds: float) -> None:
            if not passed:
                assert box.importer.queue.entries() == []
                passed.append(await asyncio.to_thread(box.importer.run, folder, "by stick"))
            await super().sleep(seconds)

    found, _ = bring(box, Watched(utc=NOON), f"{server.url}/b")
    assert (len(passed[0].added), found.added) == (1, ())


def test_who_waits_can_be_told_to_stop(box: Node, server: WebServer) -> None:
    set_windows(box, NIGHTS)

    class Endless(ScriptedClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(3600 + seconds)

    clock = Endless(utc=NOON)
    fetching = Fetching(box.ledger, box.importer, clock, NetworkSettings(tries=1))

    async def story() -> None:
        wanted = Wanted(f"{server.url}/b", "a test")
        task = asyncio.create_task(fetching.bring(wanted, lambda _: None))
        async with asyncio.timeout(10):
            while not fetching.waiting:
                await asyncio.sleep(0.01)
        assert fetching.waiting == {task}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fetching.waiting == set()

    asyncio.run(story())


def test_a_link_that_is_gone_ends_it_and_the_next_one_goes_on(
    box: Node, clock: ScriptedClock, server: WebServer
) -> None:
    blob = next(path for path, data in server.files.items() if data == DRAFT.weights)
    server.faults[blob] = [web.cut_after(4_500_000)]
    with pytest.raises(IncompleteError):
        bring(box, clock, f"{server.url}/b")
    assert bring(box, clock, f"{server.url}/b")[0].added
    assert server.gets(blob)[-1]["Range"] == f"bytes={4 << 20}-"


def test_wrong_addresses(box: Node, clock: ScriptedClock, server: WebServer) -> None:
    with pytest.raises(NotFoundError, match="there is no bundle"):
        bring(box, clock, f"{server.url}/none")
    with pytest.raises(NotFoundError, match="there is no bundle"):
        bring(box, clock, "/nowhere")
    for source in ("ftp://me:secret@h/b", "oci://me:secret@h/b", "https://me:secret@/"):
        with pytest.raises(UsageError) as caught:
            bring(box, clock, source)
        assert "secret" not in str(caught.value)
    server.faults["/b/tuf/timestamp.json"] = []
    with WebServer() as gone:
        pass
    with pytest.raises(PeerUnreachableError):
        bring(box, clock, f"{gone.url}/b")
