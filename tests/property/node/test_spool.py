"""Whoever dies whenever: every request that a gateway began is in the ledger exactly once."""

import fcntl
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from appliance.core.usage import Outcome, UsageRecord, begin_line, end_line
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node import spool

pytestmark = pytest.mark.slow


class KilledError(BaseException):
    """The controller dies here."""


class Spool(RuleBasedStateMachine):
    """A gateway that may be killed at any time, and a controller that may be too."""

    def __init__(self) -> None:
        super().__init__()
        self.state = tempfile.TemporaryDirectory()
        self.folder = Path(self.state.name) / "spool"
        self.folder.mkdir()
        self.open: list[UsageRecord] = []
        self.expected: Counter[tuple[str, Outcome]] = Counter()
        self.count = 0
        self.files = 0
        self.descriptor = -1

    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger(Path(self.state.name) / "node.db")
        self.start_gateway()

    def start_gateway(self) -> None:
        self.files += 1
        path = self.folder / f"usage-{self.files:03}.jsonl"
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    @rule()
    def accept(self) -> None:
        self.count += 1
        record = UsageRecord(str(self.count), "now", "r", "/v1", None, None, stream=False)
        os.write(self.descriptor, begin_line(record))
        self.open.append(record)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.OK, Outcome.CANCELLED, Outcome.CUT]))
    def finish(self, data: st.DataObject, outcome: Outcome) -> None:
        record = data.draw(st.sampled_from(self.open))
        self.open.remove(record)
        os.write(self.descriptor, end_line(replace(record, outcome=outcome)))
        self.expected[record.id, outcome] += 1

    @rule(torn=st.booleans())
    def kill_gateway(self, *, torn: bool) -> None:
        if torn:
            record = UsageRecord("torn", "now", "r", "/v1", None, None, stream=False)
            os.write(self.descriptor, begin_line(record)[:-1])
        os.close(self.descriptor)
        self.expected.update((record.id, Outcome.CUT) for record in self.open)
        self.open = []
        self.start_gateway()

    @rule()
    def take_in(self) -> None:
        spool.take_in(self.folder, self.ledger)

    @rule()
    def restart_controller(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(Path(self.state.name) / "node.db")

    @rule()
    def kill_controller_before_it_removes_a_file(self) -> None:
        with mock.patch.object(Path, "unlink", side_effect=KilledError):
            try:
                spool.take_in(self.folder, self.ledger)
            except KilledError:
                self.restart_controller()

    @rule()
    def kill_controller_after_it_removed_a_file(self) -> None:
        with mock.patch.object(spool, "fsync_folder", side_effect=KilledError):
            try:
                spool.take_in(self.folder, self.ledger)
            except KilledError:
                self.restart_controller()

    def teardown(self) -> None:
        os.close(self.descriptor)
        self.expected.update((record.id, Outcome.CUT) for record in self.open)
        spool.take_in(self.folder, self.ledger)
        found = self.ledger.read(lambda db: list(streams.waiting(db, Stream.USAGE, 10_000)))
        bodies = [r.record["body"] for r in found]
        self.ledger.close()
        assert list(self.folder.iterdir()) == []
        self.state.cleanup()
        assert Counter((b["id"], Outcome(b["outcome"])) for b in bodies) == self.expected


Spool.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestSpool = Spool.TestCase
