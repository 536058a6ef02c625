"""Who may have another controller run, and what the hub hears of it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.ids import Digest
from appliance.errors import (
    DowngradeError,
    LockedError,
    NotFoundError,
    RevokedError,
    UsageError,
)
from appliance.kit.files import locked
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node.software import OutcomeLoop, Software
from appliance.software import switch as decide
from appliance.software.shelf import Shelf, Staged
from appliance.software.staging import digest_of
from appliance.software.switch import Intent
from tests.fakes.controllers import FakeControllers
from tests.helpers.waiting import StillClock
from tests.unit.software.test_staging import small_wheel

pytestmark = pytest.mark.slow

PATH = "files/controller/x/1.2.0"
MANIFEST = Digest("sha256:" + "1" * 64)


@pytest.fixture
def controllers() -> FakeControllers:
    made = FakeControllers()
    made.lists[PATH] = MANIFEST
    return made


@pytest.fixture
def software(tmp_path: Path, controllers: FakeControllers) -> Iterator[Software]:
    shelf = Shelf(tmp_path)
    shelf.init()
    with locked(shelf.supervisor_lock, what="it"):
        yield Software(shelf, controllers, StillClock())


def put(software: Software, version: str, manifest: Digest = MANIFEST) -> None:
    software.shelf.place(version).mkdir()
    software.shelf.mark(Staged(version, f"files/controller/x/{version}", manifest))


def test_a_version_that_came_is_staged_once_and_asked_for(
    software: Software, controllers: FakeControllers, tmp_path: Path
) -> None:
    controllers.files[PATH] = [small_wheel(tmp_path)]
    wheel = digest_of(controllers.files[PATH][0][1])
    controllers.revoked.add(wheel)
    with pytest.raises(RevokedError):
        software.stage("1.2.0")
    controllers.revoked.clear()
    assert software.stage("1.2.0") == Staged("1.2.0", PATH, MANIFEST, (wheel,))
    controllers.files.clear()
    assert software.stage(PATH) == Staged("1.2.0", PATH, MANIFEST, (wheel,))
    controllers.revoked.add(wheel)
    with pytest.raises(RevokedError):
        software.ask("1.2.0", "me")
    controllers.revoked.clear()
    software.ask("1.2.0", "me")
    assert software.status()["next"] == "1.2.0"
    with pytest.raises(LockedError):
        software.ask("1.2.0", "me")


def test_what_is_revoked_or_not_listed_is_neither_staged_nor_switched_to(
    software: Software, controllers: FakeControllers
) -> None:
    put(software, "1.2.0")
    controllers.revoked.add(MANIFEST)
    for attempt in (lambda: software.stage("1.2.0"), lambda: software.ask("1.2.0", "me")):
        with pytest.raises(RevokedError):
            attempt()
    assert software.status()["staged"][0]["refused"] == f"{PATH} was revoked"
    controllers.revoked.clear()
    controllers.lists.clear()
    with pytest.raises(NotFoundError, match="no controller"):
        software.stage("1.2.0")
    with pytest.raises(DowngradeError):
        software.ask("1.2.0", "me")
    assert software.shelf.read().next is None


def test_names_that_mean_nothing_or_two_things_are_refused(
    software: Software, controllers: FakeControllers
) -> None:
    controllers.lists["files/controller/y/1.2.0"] = MANIFEST
    with pytest.raises(UsageError, match="may be any of"):
        software.stage("1.2.0")
    controllers.lists["files/controller/x/current"] = MANIFEST
    with pytest.raises(UsageError, match="begins with a digit"):
        software.stage("current")
    with pytest.raises(NotFoundError, match="not staged"):
        software.ask("3.0.0", "me")


def test_a_version_in_use_is_never_made_anew_with_other_content(software: Software) -> None:
    put(software, "1.2.0", Digest("sha256:" + "2" * 64))
    software.shelf.change(lambda s: decide.succeed(decide.ask(s, Intent("1.2.0", "", ""))))
    with pytest.raises(UsageError, match="other content"):
        software.stage("1.2.0")


def test_nothing_is_asked_for_while_a_version_is_staged(software: Software) -> None:
    with locked(software.shelf.staging_lock, what="it"), pytest.raises(LockedError):
        software.ask(None, "me")


def test_the_way_back_is_to_what_ran_before(software: Software) -> None:
    with pytest.raises(NotFoundError, match="no other version"):
        software.back("me")
    put(software, "1.2.0")
    software.shelf.change(lambda s: decide.succeed(decide.ask(s, Intent("1.2.0", "", ""))))
    software.back("me", restarts=True)
    intent = software.shelf.read().next
    assert intent is not None
    assert (intent.version, intent.by, intent.restarts) == (None, "me", True)


def test_without_a_supervisor_nothing_is_asked_for(
    tmp_path: Path, controllers: FakeControllers
) -> None:
    with pytest.raises(NotFoundError, match="no supervisor"):
        Software(Shelf(tmp_path), controllers, StillClock()).ask(None, "me")


def test_the_hub_hears_once_of_every_outcome(software: Software, tmp_path: Path) -> None:
    shelf = software.shelf
    ledger = Ledger(tmp_path / "node.db")
    shelf.change(lambda s: decide.ask(s, Intent("1.2.0", "uid 0", "")))
    asyncio.run(OutcomeLoop(shelf, ledger, StillClock()).look())
    assert audit(ledger) == []
    shelf.change(lambda s: decide.fail(s, "it hangs"))
    loops = [OutcomeLoop(shelf, ledger, StillClock()) for _ in range(2)]
    for loop in [*loops, loops[0], OutcomeLoop(shelf, ledger, StillClock())]:
        asyncio.run(loop.look())
    shelf.change(lambda s: decide.succeed(decide.ask(s, Intent("1.2.0", "uid 0", ""))))
    asyncio.run(loops[0].look())
    assert audit(ledger) == ["upgrade-failed it hangs", "upgraded "]
    ledger.close()


def audit(ledger: Ledger) -> list[str]:
    found = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 9)))
    return [f"{r.record['kind']} {r.record['body']['why']}" for r in found]
