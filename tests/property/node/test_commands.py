"""Whatever a broker and crashes do to commands, none is carried out twice."""

import asyncio
import datetime
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core import wire
from appliance.core.commands import Command
from appliance.errors import RefusedError
from appliance.ledger import commands as rows
from appliance.ledger.db import Ledger
from appliance.node.commands import CommandInbox, Hands
from appliance.trust.documents import DIRECTOR_PATH
from appliance.trust.envelope import Addressee, Slot, seal
from tests.helpers.signing import InForce, new_key
from tests.helpers.waiting import StillClock

pytestmark = pytest.mark.slow


DIRECTOR, SYNC, NODE = new_key(), new_key(), new_key()
COUNTERS = 6
LIFE = datetime.timedelta(minutes=10)

Step = tuple[str, int]
"""``deliver`` a counter's command, ``other`` content under that counter, or ``crash``."""

STEPS = st.lists(
    st.tuples(st.sampled_from(["deliver", "deliver", "other", "crash"]), st.integers(1, COUNTERS)),
    max_size=25,
)


class World:
    """One ledger, and the controllers that come and go over it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "node.db"
        self.trust = InForce(folder / "tuf")
        self.trust.documents[DIRECTOR_PATH] = wire.dumps(
            {"org": "acme", "epoch": 1, "keys": [DIRECTOR.public], "sync": [SYNC.public],
             "sites": ["*"], "verbs": ["restart-engine"]}
        )  # fmt: skip
        self.trust.put()
        self.clock = StillClock()
        self.begun: list[int] = []
        self.finished: list[int] = []
        self.ledger = Ledger(self.path)
        self.me = Addressee("acme", "box-1", NODE.public, self.ledger.epoch)

    async def run(self, steps: list[Step]) -> None:
        """Be one controller until it crashes or nothing is left; a crash takes steps after it."""
        inbox = self.inbox()
        await inbox.settle()
        while steps:
            kind, counter = steps.pop(0)
            if kind == "crash":
                return  # the loop ends, and with it whatever was being carried out
            try:
                await inbox.command(self.signed(counter, "b" if kind == "other" else "a"))
            except RefusedError:
                continue
        await inbox.idle()

    def inbox(self) -> CommandInbox:
        hands = Hands(self.do)
        return CommandInbox(self.me, NODE, self.trust.trust, self.ledger, self.clock, hands)

    async def do(self, command: Command) -> dict[str, Any]:
        self.begun.append(command.counter)
        await asyncio.sleep(0.0005)
        self.finished.append(command.counter)
        return {}

    def signed(self, counter: int, deployment: str) -> bytes:
        args = {"deployment": deployment}
        body = {"directorEpoch": 1, "counter": counter, "verb": "restart-engine", "args": args}
        now = self.clock.utc()
        return seal(Slot.COMMAND, self.me, body, DIRECTOR, issued=now, lifetime=LIFE)

    def ends(self) -> dict[int, str]:
        found = {n: self.ledger.read(partial(rows.find, counter=n)) for n in range(COUNTERS + 1)}
        return {n: row.state for n, row in found.items() if row is not None}


@settings(max_examples=60)
@given(STEPS)
def test_each_counter_is_used_once_and_each_command_has_one_end(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            left = list(steps)
            while left:
                asyncio.run(world.run(left))
            asyncio.run(world.run([]))
            assert len(world.begun) == len(set(world.begun)), "none was begun twice"
            assert world.begun == sorted(world.begun), "in the order of their counters"
            ends = world.ends()
            assert set(ends.values()) <= {"done", "unknown"}
            assert {n for n, end in ends.items() if end == "done"} <= set(world.finished)
            assert set(world.begun) <= set(ends), "what was begun has an end"
        finally:
            world.ledger.close()
