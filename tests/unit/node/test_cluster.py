"""A cluster's pass: who leads acts and tells; who does not takes what the objects say."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.core.state import DesiredDeployment, DesiredState, Origin, Phase
from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kit.loop import Again
from appliance.kube.objects.deployments import Reader, SeenDeployment
from appliance.ledger.db import Ledger
from appliance.node.board import Board
from appliance.node.cluster import ClusterController, ClusterView
from appliance.node.rounds import Rounds
from appliance.node.shown import StatusWriter, Telling
from tests.fakes.driver import FakeDriver
from tests.helpers.models import GIB, place, variant, wire_deployment
from tests.helpers.waiting import StillClock

if TYPE_CHECKING:
    import datetime

    from appliance.planner.place import Place


class Server:
    """ModelDeployments as an API server holds them; what is applied to a status is seen later."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.writes: list[str] = []
        self.away = False

    def put(self, name: str = "notes", namespace: str = "engines", **spec: Any) -> None:
        wire = wire_deployment(name, **spec)
        before = self.objects.get(f"{namespace}/{name}", {"metadata": {"generation": 0}})
        wire["metadata"] |= {
            "namespace": namespace, "uid": f"uid-{name}",
            "generation": before["metadata"]["generation"] + 1,
        }  # fmt: skip
        self.objects[f"{namespace}/{name}"] = {**wire, "status": before.get("status", {})}

    def apply(self, path: str, body: Any, *, force: bool) -> Any:
        assert force
        if self.away:
            raise PeerUnreachableError("nobody answers")
        key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        if key not in self.objects:
            raise NotFoundError(key)
        assert path.endswith("/status")
        self.writes.append(key)
        self.objects[key] = {**self.objects[key], "status": body["status"]}
        return body


class World:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "node.db")
        self.clock = StillClock()
        self.driver = FakeDriver(by_itself=False)
        self.server = Server()
        self.places: list[Place] | None = [place([variant()], 8 * GIB, node="a")]
        self.leads = True
        self.drift = ""
        self.is_known = True
        self.demand: dict[str, datetime.datetime] = {}
        self.rates: dict[str, float] = {}
        self.happened: list[str] = []
        self.lagging: dict[str, SeenDeployment] | None = None
        board = Board(self.ledger, self.clock, folder / "routes.json", node="a")
        telling = Telling(
            lambda: self.rates, lambda _: ["it is old"], lambda _, h: self.happened.append(h.reason)
        )
        api: Any = self.server
        self.writer = StatusWriter(api, lambda: self.leads, self.clock, telling, lambda: None)
        view = ClusterView(
            self.seen, lambda: self.places, lambda: self.leads, lambda: self.demand,
            self.words,
        )  # fmt: skip
        rounds = Rounds(self.driver, slots=1, at_once=8)
        self.controller = ClusterController(
            self.driver, rounds, view, board, self.writer, self.clock
        )

    def seen(self) -> dict[str, SeenDeployment] | None:
        if not self.is_known:
            return None
        if self.lagging is not None:
            return self.lagging
        read = (Reader("engines")(o) for o in self.server.objects.values())
        return {s.key: s for s in read if s is not None}

    def words(self) -> DesiredState:
        found = (self.seen() or {}).get("engines/notes")
        if found is None or found.document is None:
            return DesiredState(fleet_generation=7)
        said = DesiredDeployment(found.document, Origin.CLUSTER, self.drift)
        return DesiredState((said,), (), 7)

    def step(self) -> Again | None:
        """Make a pass, and write what it says."""

        async def both() -> Again | None:
            found = await self.controller.reconcile()
            await self.writer.look()
            return found

        return asyncio.run(both())

    def stated(self, name: str = "notes", namespace: str = "engines") -> dict[str, str]:
        status = self.server.objects[f"{namespace}/{name}"]["status"]
        return {c["type"]: c["reason"] for c in status.get("conditions", ())}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.ledger.close()


def test_what_is_applied_starts_serves_and_is_then_left_alone(world: World) -> None:
    world.server.put(replicas=2)
    world.step()
    assert world.driver.started == ["notes-0", "notes-1"]
    assert world.stated()["Ready"] == "Starting"
    for name in world.driver.started:
        world.driver.become_ready(name)
    world.step()
    assert world.stated()["Ready"] == "Serving"
    assert world.happened == ["Starting", "Serving"]
    writes = len(world.server.writes)
    for _ in range(5):
        assert world.step() is None
    assert len(world.server.writes) == writes
    assert world.controller.board.world.desired.fleet_generation == 7


def test_a_status_is_not_written_again_while_the_watch_lags(world: World) -> None:
    world.server.put()
    world.lagging = world.seen()
    for _ in range(3):
        world.step()
    assert len(world.server.writes) == 1


def test_nothing_is_touched_before_all_is_known(world: World) -> None:
    world.server.put()
    world.step()
    world.is_known = False
    assert world.step() is None
    world.is_known, world.places = True, None
    world.server.objects.clear()
    assert world.step() is None
    assert world.driver.observe()["notes-0"].phase is Phase.STARTING


def test_who_does_not_lead_writes_nothing_and_tells_what_the_leader_said(world: World) -> None:
    world.server.put()
    world.step()
    world.driver.become_ready("notes-0", "http://10.0.0.1:8080")
    world.step()
    world.leads = False
    writes = len(world.server.writes)
    world.server.put(replicas=3)
    world.step()
    assert len(world.server.writes) == writes
    assert list(world.driver.observe()) == ["notes-0"]
    (told,) = world.controller.board.world.statuses
    assert (told.ready, told.origin, told.variant) == (1, Origin.CLUSTER, variant())
    assert told.is_ready
    ready = told.condition("Ready")
    assert ready is not None
    assert ready.message.endswith("; it is old")


def test_an_invalid_edit_is_said_and_what_runs_goes_on(world: World) -> None:
    world.server.put()
    world.step()
    world.driver.become_ready("notes-0")
    world.server.put(replicas="many")
    world.server.put("stray", namespace="elsewhere")
    world.step()
    assert world.stated()["Ready"] == "Invalid"
    assert world.stated("stray", "elsewhere")["Ready"] == "WrongNamespace"
    assert world.driver.observe()["notes-0"].phase is Phase.READY
    assert list(world.driver.observe()) == ["notes-0"]


def test_a_node_that_has_said_nothing_yet_keeps_what_it_runs(world: World) -> None:
    world.server.put()
    world.step()
    world.places = []
    world.step()
    assert world.driver.observe()["notes-0"].phase is Phase.STARTING
    world.server.objects.clear()
    world.step()
    assert world.driver.observe()["notes-0"].phase is Phase.STOPPING


def test_what_fails_is_said_and_tried_again_without_holding_up_the_others(world: World) -> None:
    world.server.put("a")
    world.server.put("b")
    world.driver.refusals["a-0"] = "no image"
    assert world.step() == Again(5.0)
    assert (world.stated("a")["Ready"], world.stated("b")["Ready"]) == ("ActionFailed", "Starting")
    world.driver.refusals.clear()
    world.step()
    assert world.stated("a")["Ready"] == "Starting"


def test_a_request_wakes_what_sleeps(world: World) -> None:
    world.server.put(scaling={"min": 0, "max": 1, "idleAfter": "1m"})
    assert world.step() is None
    assert world.stated()["Ready"] == "ScaledToZero"
    world.demand["notes"] = world.clock.utc()
    assert world.step() == Again(60.0)
    assert world.driver.started == ["notes-0"]


def test_a_server_that_is_away_is_written_to_later(world: World) -> None:
    world.server.put()
    world.server.away = True
    with pytest.raises(PeerUnreachableError):
        world.step()
    assert world.driver.started == ["notes-0"]
    world.server.away = False
    world.step()
    assert world.stated()["Ready"] == "Starting"


def test_rates_alone_are_told_of_a_few_objects_a_minute(world: World) -> None:
    names = [f"n{i}" for i in range(8)]
    for name in names:
        world.server.put(name)
    world.step()
    writes = len(world.server.writes)
    world.rates = dict.fromkeys(names, 10.0)
    for _ in range(3):
        world.step()
    assert len(world.server.writes) == writes + 5


def test_another_wording_alone_is_told_of_a_few_objects_a_minute_and_of_all_in_turn(
    world: World,
) -> None:
    names = [f"n{i}" for i in range(8)]
    for name in names:
        world.server.put(name)
    world.step()
    for turn in ("this", "that"):
        for name in names:
            world.driver.crash(f"{name}-0", turn)
        world.step()
    writes = len(world.server.writes)
    for minute in range(4):
        for n in range(6):
            for name in names:
                world.driver.crash(f"{name}-0", f"{minute} {n}")
            world.step()
        world.clock.move(61)
    assert len(world.server.writes) <= writes + 4 * 5
    assert set(world.server.writes[writes:]) == {f"engines/{name}" for name in names}


def test_drift_reaches_the_condition(world: World) -> None:
    world.server.put()
    world.drift = "replicas is 1 here, 2 in the fleet"
    world.step()
    assert world.stated()["Drifted"] == "LocalOverride"


def test_a_node_without_kubernetes_never_loads_it() -> None:
    code = (
        "import sys, appliance.wiring.node, appliance.cli.main, appliance.wiring.gateway;"
        "print([m for m in sys.modules if m.split('.')[0] == 'kubernetes'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
