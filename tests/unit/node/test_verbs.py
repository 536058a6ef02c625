"""What verbs do on a node, over a driver that obeys the test."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.core.commands import GOLDEN, Command, Verb
from appliance.core.state import Phase
from appliance.errors import CorruptError, EngineError, NotFoundError, PeerUnreachableError
from appliance.node import desired, verbs
from appliance.node.desired import FleetWord
from appliance.node.verbs import Around, Verbs
from appliance.wiring.commands import stop_engines
from tests.helpers.models import deployment, variant
from tests.helpers.nodes import ControlledNode


class Commanded:
    """A node whose one deployment serves."""

    def __init__(self, folder: Path) -> None:
        self.node = ControlledNode(folder)
        self.node.bring(variant())
        word = FleetWord(1, 1, "hash", (deployment(),))
        self.node.ledger.record(lambda db: desired.set_fleet(db, word)).result()
        self.logs: dict[str, list[str]] = {"notes-0": ["line"] * 9}
        self.text: str | Exception = "one, two"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        node = self.node
        self.verbs = Verbs(
            Around(
                node.ledger, node.board, node.clock, lambda: {"node": "box-1"}, self._log_lines,
                lambda name: stop_engines(node.driver, name), self.look, self._ask,
            )
        )  # fmt: skip
        asyncio.run(self._serve())

    async def look(self) -> None:
        await self.node.controller.reconcile()

    async def _serve(self) -> None:
        await self.look()
        for replica in list(self.node.driver.observe()):
            self.node.driver.become_ready(replica)
        await self.look()

    def _log_lines(self, name: str, lines: int) -> dict[str, list[str]]:
        assert name == "notes"
        return {engine: said[-lines:] for engine, said in self.logs.items()}

    def _ask(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((endpoint, body))
        if isinstance(self.text, Exception):
            raise self.text
        return {"choices": [{"message": {"content": self.text}}]}

    def do(self, verb: Verb, **args: Any) -> dict[str, Any]:
        return asyncio.run(self.verbs.do(Command(1, verb, args)))


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Commanded]:
    made = Commanded(tmp_path)
    yield made
    made.node.ledger.close()


def test_diagnostics_are_status_and_logs(it: Commanded) -> None:
    found = it.do(Verb.COLLECT, lines=3)
    expected = {"status": {"node": "box-1"}, "logs": {"notes-0": ["line"] * 3}}
    assert found == {**expected, "lines_left_out": 0}


def test_diagnostics_fit_into_an_envelope() -> None:
    logs = {"a": ["x" * 1000] * 100, "b": ["y"]}
    found = verbs.fitted({"node": "box-1"}, logs)
    assert len(wire.dumps(found)) <= 40 << 10
    assert found["status"] == {"node": "box-1"}
    assert found["logs"]["b"] == ["y"]
    assert found["lines_left_out"] == 100 - len(found["logs"]["a"]) > 0
    found = verbs.fitted({"node": "box-1", "all": "z" * (64 << 10)}, {})
    assert found["status"] == {"node": "box-1", "left_out": "all"}


def test_an_engine_is_stopped_and_ready_again(it: Commanded) -> None:
    seen: list[str] = []

    async def comes_up_again() -> None:
        while not seen:
            await asyncio.sleep(0.001)
            await it.look()
            for replica in it.node.driver.observe().values():
                if replica.phase is Phase.STOPPING:
                    it.node.driver.end(replica.id)
                elif replica.phase is Phase.STARTING:
                    it.node.driver.become_ready(replica.id)
                    seen.append(replica.id)
        await it.look()

    async def story() -> dict[str, Any]:
        up = asyncio.create_task(comes_up_again())
        result = await it.verbs.do(Command(1, Verb.RESTART, {"deployment": "notes"}))
        await up
        return result

    assert asyncio.run(story())["stopped"] == ["notes-0"]
    assert it.node.status().is_ready
    with pytest.raises(NotFoundError):
        it.do(Verb.RESTART, deployment="nobody")


def test_an_engine_that_does_not_come_up_again_is_a_failure(
    it: Commanded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_READY_S", -1.0)
    with pytest.raises(EngineError, match="not ready again"):
        it.do(Verb.RESTART, deployment="notes")


def test_golden_prompts_are_asked_of_each_engine_alike(it: Commanded) -> None:
    found = it.do(Verb.GOLDEN, deployment="notes")
    assert found["manifest"] == variant().manifest
    (answers,) = found["answers"].values()
    assert [a["id"] for a in answers] == [g.id for g in GOLDEN]
    right = hashlib.sha256(b"one, two").hexdigest()
    assert {a["sha256"] for a in answers} == {right}
    assert all(body["temperature"] == 0 for _, body in it.asked)
    it.do(Verb.GOLDEN, deployment="notes", expect={"count": right})
    with pytest.raises(CorruptError, match="count at notes-0"):
        it.do(Verb.GOLDEN, deployment="notes", expect={"count": "0" * 64})


def test_an_engine_that_answers_nothing_fails(it: Commanded) -> None:
    it.text = " "
    with pytest.raises(EngineError, match="answered nothing"):
        it.do(Verb.GOLDEN, deployment="notes")
    it.text = PeerUnreachableError("gone")
    with pytest.raises(PeerUnreachableError):
        it.do(Verb.GOLDEN, deployment="notes")


def test_the_director_may_hold_a_deployment(it: Commanded) -> None:
    found = it.do(Verb.HOLD, deployment="notes", reason="rollout halted", minutes=60)
    assert found["until"] == "2026-12-01T01:00:00.000Z"
    (only,) = it.node.ledger.read(desired.in_force).deployments
    assert only.drift == f"held by the director until {found['until']}: rollout halted"
