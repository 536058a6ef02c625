"""kill -9 of node, hub, engine and broker, each time with something in flight.

The node always comes back serving, and by the witness's count no record is lost or doubled.
"""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import pytest

from appliance.demo.stack import Stack
from appliance.demo.story import DEPLOYMENT
from tests.conftest import need_root
from tests.e2e.conftest import Running, running_stack

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


def engine_pid(stack: Stack) -> int:
    engines = [e for e in stack.status()["engines"] if e["pid"] and e["phase"] == "ready"]
    return int(engines[0]["pid"])


def unacknowledged(stack: Stack) -> int:
    return sum(s["written"] - s["acknowledged"] for s in stack.status()["streams"].values())


class Traffic:
    """Requests by the witness, one after the other, for as long as the block runs."""

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self.in_flight = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._ask = ask
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            self.in_flight.set()
            answer = self._ask()
            self.in_flight.clear()
            self.outcomes.update(answer["outcomes"])


def test_nothing_is_lost_or_doubled_whoever_is_killed(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    need_root()  # the witness looks into engines that run as users of their own
    kills = request.config.getoption("--kills")
    with running_stack(replicas=1) as found:
        witness = found.witness()
        try:
            struck = Counter(_kill_all(found, witness.command, kills))
            verdict = witness.command("verdict")
        finally:
            witness.end()
    assert verdict["ok"], verdict["findings"]
    assert struck == Counter(dict.fromkeys(("node", "hub", "engine", "broker"), kills))
    told = f"killed {dict(struck)}; {verdict['requests']} requests: {verdict['outcomes']}"
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")


def _kill_all(found: Running, command: Callable[[str], dict[str, Any]], kills: int) -> list[str]:
    stack, struck = found.stack, []
    with Traffic(lambda: command("ask 1 stream")) as traffic:
        for _ in range(kills):
            for victim in ("node", "hub", "engine", "broker"):
                _strike(found, victim, traffic)
                struck.append(victim)
                answered = traffic.outcomes["ok"]
                stack.wait("answers", lambda a=answered: traffic.outcomes["ok"] > a + 1)  # type: ignore[misc]
                stack.wait("the node to be back", lambda: stack.is_ready(DEPLOYMENT, 1))
    stack.wait("the hub to have it all", stack.all_acknowledged)
    return struck


def _strike(found: Running, victim: str, traffic: Traffic) -> None:
    """Kill it while a request is in flight, or a batch waits for its acknowledgement."""
    pid = engine_pid(found.stack) if victim == "engine" else found.supervisor.pid(victim)
    assert traffic.in_flight.wait(30)
    time.sleep(0.05 + (pid % 7) * 0.02)  # strike at different moments of a request
    in_flight = traffic.in_flight.is_set() or unacknowledged(found.stack) > 0
    os.kill(pid, signal.SIGKILL)
    assert in_flight, f"nothing was in flight when {victim} was killed"
