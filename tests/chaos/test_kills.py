"""kill -9 of node, hub, engine, broker and gateway, each time while an answer is under way.

Each comes back and serves, and by the witness's count no record is lost or doubled.
"""

import datetime
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from appliance.demo.stack import Stack
from appliance.demo.story import DEPLOYMENT
from appliance.errors import PeerUnreachableError
from appliance.kit.clock import rfc3339
from appliance.kit.proc import ProcessId, identify
from tests.conftest import need_root
from tests.e2e.conftest import Running, running_stack

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

VICTIMS = ("node", "hub", "engine", "broker", "gateway")


class Traffic:
    """Requests by the witness, one after the other, for as long as the block runs."""

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._ask = ask
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def answered_since(self, moment: float) -> int:
        """How many requests began after this moment and were answered in full."""
        return sum(r["began"] > moment and r["outcome"] == "ok" for r in self.requests)

    def in_flight(self, moment: float) -> bool:
        """Whether an answer had begun before this moment and ended after it, by the witness.

        The monotonic clock is the same for all processes of a machine. To be asked when a request
        that began later was answered.
        """
        answers = (r for r in self.requests if r["answered"] is not None)
        return any(r["answered"] < moment < r["ended"] for r in answers)

    def _run(self) -> None:
        while not self._ending.is_set():
            self.requests += self._ask()["requests"]


def test_nothing_is_lost_or_doubled_whoever_is_killed(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    need_root()  # the witness looks into engines that run as users of their own
    kills = request.config.getoption("--kills")
    struck: Counter[str] = Counter()
    with running_stack(replicas=1) as found:
        witness = found.witness()
        try:
            with Traffic(lambda: witness.command("ask 1 stream")) as traffic:
                found.stack.wait("answers", lambda: traffic.answered_since(0) > 0)
                for victim in VICTIMS * kills:
                    struck[victim] += _strike(found, victim, traffic)
            found.stack.wait("the hub to have it all", found.stack.all_acknowledged)
            verdict = witness.command("verdict cuts")
        finally:
            witness.end()
    assert verdict["ok"], verdict["findings"]
    told = f"killed {dict(struck)}; {verdict['requests']} requests: {verdict['outcomes']}"
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")


def _strike(found: Running, victim: str, traffic: Traffic) -> int:
    """Kill it until an answer was under way at that moment; return the number of kills."""
    for kills in range(1, 11):
        moment = _kill(found, victim)
        _wait_until_it_serves_again(found.stack, traffic)
        if traffic.in_flight(moment):
            return kills
    pytest.fail(f"{victim} was killed ten times, and never was an answer under way")


def _kill(found: Running, victim: str) -> float:
    """Kill it and see that it is gone and another came; return the moment of the kill."""
    killed = _process(found, victim)
    time.sleep(killed.pid % 10 * 0.05)  # strike at different moments of a request
    moment = time.monotonic()
    os.kill(killed.pid, signal.SIGKILL)
    found.stack.wait(f"the end of the {victim}", lambda: not killed.is_alive())
    found.stack.wait(f"another {victim}", lambda: _process(found, victim) != killed)
    return moment


def _wait_until_it_serves_again(stack: Stack, traffic: Traffic) -> None:
    """Until the node is ready, a new report came through the broker, and requests are answered."""
    now, moment = rfc3339(datetime.datetime.now(datetime.UTC)), time.monotonic()
    stack.wait("the node to be back", lambda: stack.is_ready(DEPLOYMENT, 1))
    stack.wait("the node to be linked", lambda: bool(stack.status()["link"]["connected"]))
    stack.wait("the hub to hear of the node", lambda: stack.seen_by_hub()["heard_at"] > now)
    stack.wait("answers", lambda: traffic.answered_since(moment) > 1)


def _process(found: Running, name: str) -> ProcessId:
    """Return the process that plays this part now.

    Raises:
        PeerUnreachableError: none does.
    """
    if name == "engine":
        engines = found.stack.status()["engines"]
        pid = next((e["pid"] for e in engines if e["pid"] and e["phase"] == "ready"), 0)
    else:
        pid = found.supervisor.pid(name)
    process = identify(pid)
    if process is None or not process.is_alive():
        raise PeerUnreachableError(f"{name} does not run")
    return process


def test_a_hub_that_was_killed_before_it_committed_had_acknowledged_nothing() -> None:
    """Its database is held, so that it has heard of a batch and cannot commit it."""
    need_root()
    with running_stack(replicas=1) as found:
        stack = found.stack
        stack.wait("the hub to have it all", stack.all_acknowledged)
        witness = found.witness()
        try:
            before = _usage(stack)["acknowledged"]
            with _held(stack.hub_state / "hub.db"):
                witness.command("ask 2 stream")
                stack.wait("the records", lambda: _usage(stack)["written"] >= before + 2)
                time.sleep(2.0)  # far longer than a batch takes, and it is sent again after 1 s
                assert _usage(stack)["acknowledged"] == before, "what was not committed"
                _kill(found, "hub")
            stack.wait("the hub to have it all", stack.all_acknowledged)
            verdict = witness.command("verdict")
        finally:
            witness.end()
    assert verdict["ok"], verdict["findings"]


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Let nobody else write to a database."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def _usage(stack: Stack) -> dict[str, int]:
    """Return how far the usage stream is, as the node says."""
    return dict(stack.status()["streams"]["usage"])
