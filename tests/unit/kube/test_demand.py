"""What one machine tells a ModelDeployment of demand, and what it makes of what others told."""

import asyncio
import datetime
from typing import Any

import pytest

from appliance.core.demand import Demand
from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kube.objects.demand import ANNOTATION, DemandTeller, combined, due, read
from tests.helpers.waiting import StillClock

NOON = datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)


def at(seconds: float) -> datetime.datetime:
    return NOON + datetime.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("demand", "told", "expected"),
    [
        (Demand(at(0.7)), None, at(0)),
        (Demand(at(59.9)), at(0), None),
        (Demand(at(60)), at(0), at(60)),
        (Demand(at(5)), at(90), None),
        (Demand(at(5), waiting_since=at(4), waited_at=at(5)), at(0), at(5)),
        (Demand(at(5), waiting_since=at(-9), waited_at=at(-5)), at(0), None),
        (Demand(at(0.9), waiting_since=at(0.8), waited_at=at(0.9)), at(0), at(1)),
        (Demand(at(9), waiting_since=at(0.8), waited_at=at(9)), at(1), None),
    ],
)
def test_it_is_told_at_once_that_requests_wait_and_else_once_a_minute(
    demand: Demand, told: datetime.datetime | None, expected: datetime.datetime | None
) -> None:
    found = due({"notes": demand, "always-on": demand}, {"notes": told, "unasked": None})
    assert found == ({} if expected is None else {"notes": expected})


def test_what_others_told_may_be_a_minute_behind() -> None:
    own = {"a": at(0), "b": at(100), "c": at(7)}
    elsewhere = {"a": at(10), "b": at(10), "d": at(95), "e": None}
    assert combined(own, elsewhere, at(100)) == {
        "a": at(70),
        "b": at(100),
        "c": at(7),
        "d": at(100),
    }


@pytest.mark.parametrize("text", [None, "", "soon", "2026-12-01", "2026-12-01T12:00:00"])
def test_an_annotation_that_is_no_time_says_nothing(text: str | None) -> None:
    assert read(text) is None


class Server:
    """Objects that may sleep, by name; counts what is changed."""

    def __init__(self, *names: str) -> None:
        self.annotations: dict[str, str | None] = dict.fromkeys(names)
        self.calls: list[str] = []
        self.error: Exception | None = None

    def merge(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(path)
        if self.error is not None:
            raise self.error
        self.annotations[path.rpartition("/")[2]] = body["metadata"]["annotations"][ANNOTATION]
        return {}


class Machine:
    def __init__(self, server: Server, clock: StillClock) -> None:
        self.demand: dict[str, Demand] = {}
        self.seen: dict[str, str | None] | None = None
        self.teller = DemandTeller(
            server,  # type: ignore[arg-type]  # all that it calls
            "edge-engines",
            lambda: self.demand,
            lambda: server.annotations if self.seen is None else self.seen,
            clock,
        )

    def look(self) -> None:
        asyncio.run(self.teller.look())


def test_a_model_in_use_costs_one_call_a_minute_for_all_machines() -> None:
    clock, server = StillClock(), Server("notes")
    machines = [Machine(server, clock) for _ in range(2)]
    for _ in range(180):
        for machine in machines:
            machine.demand = {"notes": Demand(clock.utc()), "always-on": Demand(clock.utc())}
            machine.look()
        clock.move(1)
    assert server.calls == ["/apis/edge-appliance.dev/v1alpha1/namespaces/edge-engines"
                            "/modeldeployments/notes"] * 3  # fmt: skip


def test_what_was_just_told_is_not_told_again_before_it_is_seen() -> None:
    clock, server = StillClock(), Server("notes")
    machine = Machine(server, clock)
    machine.seen = {"notes": None}
    machine.demand = {"notes": Demand(clock.utc())}
    machine.look()
    machine.look()
    assert len(server.calls) == 1


def test_who_told_it_knows_better_and_others_allow_for_a_minute() -> None:
    clock, server = StillClock(), Server("notes")
    one, other = Machine(server, clock), Machine(server, clock)
    began = clock.utc()
    one.demand = {"notes": Demand(began)}
    one.look()
    clock.move(40)
    assert one.teller.last_demand() == {"notes": began}
    assert other.teller.last_demand() == {"notes": clock.utc()}
    clock.move(40)
    assert other.teller.last_demand() == {"notes": began + datetime.timedelta(seconds=60)}


def test_a_time_to_come_was_written_by_a_wrong_clock_and_is_told_anew() -> None:
    clock, server = StillClock(), Server("notes")
    machine = Machine(server, clock)
    clock.move(86_400)
    machine.demand = {"notes": Demand(clock.utc())}
    machine.look()
    clock.move(-86_400)
    machine.demand = {"notes": Demand(clock.utc())}
    assert Machine(server, clock).teller.last_demand() == {}
    machine.look()
    assert read(server.annotations["notes"]) == clock.utc()


def test_an_object_that_is_gone_is_passed_over_and_a_server_that_is_away_is_asked_again() -> None:
    clock, server = StillClock(), Server("notes")
    machine = Machine(server, clock)
    machine.demand = {"notes": Demand(clock.utc())}
    server.error = NotFoundError("gone")
    machine.look()
    server.error = PeerUnreachableError("away")
    with pytest.raises(PeerUnreachableError):
        machine.look()
    server.error = None
    machine.look()
    assert server.annotations["notes"] is not None
