"""Fencing GPUs: what is recorded, what survives a restart, who has to leave, when to reset."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import ApplianceError, LockedError, NoSpaceError, NotFoundError, UsageError
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node.gpus import Gpus
from appliance.planner.fence import Owner
from tests.fakes.gpus import FakeGpus
from tests.helpers.waiting import StillClock


@dataclass
class Box:
    """A node's GPUs, and the ledger below them."""

    path: Path
    driver: FakeGpus = field(default_factory=lambda: FakeGpus(["GPU-a", "GPU-b"]))
    owners: list[Owner] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.path)
        self.gpus = Gpus(self.ledger, StillClock(), self.driver, lambda: self.owners)
        self.gpus.look_now()

    def restart(self) -> None:
        self.ledger.close()
        self.open()

    def xid(self, uuid: str, xid: int) -> None:
        assert self.driver.watch is not None
        self.driver.watch.tell(uuid, xid)

    def told(self, stream: Stream) -> list[str]:
        found = self.ledger.read(lambda db: list(streams.waiting(db, stream, 100)))
        return [r.record["kind"] for r in found]

    def row(self, uuid: str) -> dict[str, Any]:
        return next(g for g in self.gpus.to_wire()["gpus"] if g["uuid"] == uuid)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    found = Box(tmp_path / "node.db")
    yield found
    found.ledger.close()


def test_gpus_that_are_well_are_remembered_and_nothing_is_said(box: Box) -> None:
    assert box.gpus.fenced() == {}
    assert box.gpus.visible() is None
    assert box.row("GPU-a")["present"] is True
    assert box.told(Stream.EVENTS) == box.told(Stream.AUDIT) == []


def test_an_xid_error_fences_and_one_event_says_so(box: Box) -> None:
    changes: list[str] = []
    box.gpus.on_change = lambda uuid, _: changes.append(uuid)
    for _ in range(3):
        box.xid("GPU-a", 79)
        box.gpus.look_now()
    assert box.gpus.fenced()["GPU-a"].message.startswith("XID 79")
    assert box.told(Stream.EVENTS) == ["gpu-fenced"]
    assert box.told(Stream.AUDIT) == ["gpu-fence"]
    assert changes == ["GPU-a"]
    assert box.gpus.visible() == ("GPU-b",)


def test_an_error_of_a_gpu_that_nobody_noted_yet_fences_it_too(tmp_path: Path) -> None:
    """The watch begins with the first look, and may be quicker than it."""
    ledger, driver = Ledger(tmp_path / "node.db"), FakeGpus(["GPU-a"])
    gpus = Gpus(ledger, StillClock(), driver, list)
    assert driver.watch is not None
    driver.watch.tell("GPU-a", 79)
    gpus.look_now()
    assert list(gpus.fenced()) == ["GPU-a"]
    assert gpus.to_wire()["gpus"][0]["name"] == "Fake GPU-a"
    ledger.close()


def test_an_error_that_could_not_be_recorded_is_recorded_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise NoSpaceError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("appliance.ledger.gpus.fence", full)
        box.xid("GPU-a", 79)
        assert box.gpus.fenced() == {}
    box.gpus.look_now()
    assert list(box.gpus.fenced()) == ["GPU-a"]


def test_an_error_of_the_application_changes_nothing(box: Box) -> None:
    box.xid("GPU-a", 31)
    assert box.gpus.fenced() == {}


@pytest.mark.parametrize("how", ["lost", "taken out"])
def test_a_gpu_that_is_gone_is_fenced(box: Box, how: str) -> None:
    if how == "lost":
        box.driver.lost.add("GPU-b")
    else:
        box.driver.there.remove("GPU-b")
    box.gpus.look_now()
    assert box.gpus.fenced()["GPU-b"].reason == "Gone"
    assert box.row("GPU-b")["present"] is False


def test_a_driver_that_says_nothing_neither_fences_nor_heals(box: Box) -> None:
    box.xid("GPU-a", 79)
    box.driver.silent = True
    box.gpus.look_now()
    assert list(box.gpus.fenced()) == ["GPU-a"]
    assert box.row("GPU-b")["present"] is None
    assert box.row("GPU-b")["users"] is None


def test_a_gpu_whose_errors_nobody_hears_of_is_shown_as_such(tmp_path: Path) -> None:
    box = Box(tmp_path / "node.db", FakeGpus(["GPU-a"], hears=False))
    assert box.row("GPU-a")["xid_watched"] is False
    box.ledger.close()


def test_a_fence_survives_restarts_and_a_gpu_that_comes_back(box: Box) -> None:
    box.driver.there.remove("GPU-b")
    box.gpus.look_now()
    box.driver.there.append("GPU-b")
    box.restart()
    assert list(box.gpus.fenced()) == ["GPU-b"]
    assert box.told(Stream.EVENTS) == ["gpu-fenced"]


def test_a_person_fences_and_releases_and_both_are_audited(box: Box) -> None:
    assert box.gpus.fence("GPU-a", "smells of smoke", "uid 7") == "GPU-a"
    fence = box.gpus.fenced()["GPU-a"]
    assert (fence.reason, fence.message, fence.by) == ("Asked", "smells of smoke", "uid 7")
    box.gpus.release("GPU-a", "uid 7")
    assert box.gpus.fenced() == {}
    assert box.told(Stream.AUDIT) == ["gpu-fence", "gpu-release"]
    with pytest.raises(UsageError, match="is not fenced"):
        box.gpus.release("GPU-a", "uid 7")


def test_a_gpu_that_was_taken_out_is_forgotten_by_releasing_it(box: Box) -> None:
    box.driver.there.remove("GPU-b")
    box.gpus.look_now()
    box.gpus.release("GPU-b", "uid 7")
    box.gpus.look_now()
    assert box.gpus.fenced() == {}
    assert [g["uuid"] for g in box.gpus.to_wire()["gpus"]] == ["GPU-a"]


def test_names_may_be_short_but_not_ambiguous(box: Box) -> None:
    with pytest.raises(UsageError, match="GPU-a or GPU-b"):
        box.gpus.fence("GPU-", "why", "uid 7")
    for name in ("GPU-c", ""):
        with pytest.raises((NotFoundError, UsageError)):
            box.gpus.fence(name, "why", "uid 7")


def test_replicas_on_a_fenced_gpu_must_leave_until_they_are_gone(box: Box) -> None:
    box.owners = [Owner("notes-0", 42), Owner("chat-0", 43)]
    box.driver.using = {"GPU-a": frozenset({42}), "GPU-b": frozenset({43})}
    assert box.gpus.stops() == {}
    box.xid("GPU-a", 79)
    assert list(box.gpus.stops()) == ["notes-0"]
    box.driver.using = {"GPU-b": frozenset({42, 43})}
    box.gpus.look_now()
    assert box.gpus.stops() == {}


def test_only_a_fenced_gpu_that_nothing_uses_is_reset(box: Box) -> None:
    with pytest.raises(UsageError, match="is not fenced"):
        box.gpus.reset("GPU-a", "uid 7")
    box.owners = [Owner("notes-0", 42)]
    box.driver.using = {"GPU-a": frozenset({42, 99999999})}
    box.xid("GPU-a", 79)
    with pytest.raises(LockedError, match="in use by notes-0, process 99999999"):
        box.gpus.reset("GPU-a", "uid 7")
    box.driver.using = {"GPU-a": None}
    with pytest.raises(LockedError, match="is not known"):
        box.gpus.reset("GPU-a", "uid 7")
    assert box.driver.resets == []
    box.driver.using = {}
    box.gpus.reset("GPU-a", "uid 7")
    assert box.driver.resets == ["GPU-a"]
    assert box.gpus.fenced() == {}
    assert box.told(Stream.AUDIT) == ["gpu-fence", "gpu-reset"]


def test_a_reset_that_fails_leaves_the_fence(box: Box) -> None:
    box.gpus.fence("GPU-a", "why", "uid 7")
    box.driver.refuses = "nvidia-smi could not reset GPU-a: in use by another client"
    with pytest.raises(ApplianceError, match="another client"):
        box.gpus.reset("GPU-a", "uid 7")
    assert list(box.gpus.fenced()) == ["GPU-a"]
    assert box.driver.watch is not None
    assert box.driver.watch.watched, "XID errors are heard of again"


def test_a_gpu_that_is_lost_cannot_be_reset(box: Box) -> None:
    box.driver.there.remove("GPU-b")
    box.gpus.look_now()
    with pytest.raises(LockedError, match="is not known"):
        box.gpus.reset("GPU-b", "uid 7")
