"""The outbox never loses and never doubles, in whatever order things happen."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.core import wire
from appliance.errors import UsageError
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Position, Record, SealedBatch, Stream

pytestmark = pytest.mark.slow


_STREAM = Stream.USAGE


class Outbox(RuleBasedStateMachine):
    """A ledger beside a plain list of what was ever written, sealed and acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.written: list[int] = []
        self.sealed: list[SealedBatch] = []
        self.freed = 0

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger(Path(self.folder.name) / "node.db")
        self.epoch = self.ledger.epoch

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        numbers = range(len(self.written), len(self.written) + count)
        facts = [Fact(_STREAM, "test", "", {"number": n}) for n in numbers]
        facts.insert(1, Fact(Stream.AUDIT, "test", "", {}))  # another stream's counts for itself
        self.ledger.note(*facts).result()
        self.written.extend(numbers)

    @rule(count=st.integers(0, 3))
    def fail(self, count: int) -> None:
        def effect(_: object) -> None:
            raise UsageError("no")

        facts = [Fact(_STREAM, "never", "", {})] * count
        assert isinstance(self.ledger.record(effect, *facts).exception(), UsageError)

    @rule(take=st.integers(1, 6), offered=st.integers(1, 8))
    def seal(self, take: int, offered: int) -> None:
        def make(position: Position, records: list[Record]) -> SealedBatch:
            taken = records[:take]
            content = [r.record["body"] for r in taken]
            data = wire.dumps({"previous": position.sealed_hash, "records": content})
            digest = hashlib.sha256(data).hexdigest()
            return SealedBatch(_STREAM, taken[0].seq, len(taken), digest, data)

        done = self.ledger.record(lambda db: streams.seal(db, _STREAM, make, most=offered))
        batch = done.result()
        if batch is None:
            assert self._sealed_upto() == len(self.written)
        else:
            self.sealed.append(batch)

    @precondition(lambda self: len(self.sealed) > self.freed)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(self.freed, len(self.sealed) - 1))
        batch = self.sealed[which]
        assert self._acknowledge(batch.upto, batch.hash)
        self.freed = which + 1

    @rule(upto=st.integers(-1, 40), digest=st.sampled_from(["", "0" * 64]))
    def acknowledge_unknown(self, upto: int, digest: str) -> None:
        assert not self._acknowledge(upto, digest)

    @precondition(lambda self: bool(self.sealed))
    @rule(data=st.data())
    def acknowledge_wrongly(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.sealed))
        other = data.draw(st.sampled_from(self.sealed))
        if batch is not other:
            assert not self._acknowledge(batch.upto, other.hash)
        assert not self._acknowledge(batch.upto - 1, batch.hash)

    @precondition(lambda self: self.freed > 0)
    @rule(data=st.data())
    def acknowledge_again(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.sealed[: self.freed]))
        assert not self._acknowledge(batch.upto, batch.hash)

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.open()

    @invariant()
    def what_is_left_is_all_that_was_not_freed(self) -> None:
        ready = self.ledger.read(lambda db: streams.unacknowledged(db, _STREAM, 1000))
        assert ready == self.sealed[self.freed :]
        waiting = self.ledger.read(lambda db: list(streams.waiting(db, _STREAM, 1000)))
        upto = self._sealed_upto()
        assert [r.seq for r in waiting] == list(range(upto + 1, len(self.written) + 1))
        assert [r.record["body"]["number"] for r in waiting] == self.written[upto:]
        found = self.ledger.read(lambda db: streams.position(db, _STREAM))
        assert found.written == len(self.written)
        assert found.acked_upto == (self.sealed[self.freed - 1].upto if self.freed else 0)
        assert self.ledger.epoch == self.epoch

    @invariant()
    def batches_hold_every_record_once_and_are_linked(self) -> None:
        previous, numbers, first = "", [], 1
        for batch in self.sealed:
            content = wire.loads(batch.envelope, what="a batch")
            assert (batch.first, content["previous"]) == (first, previous)
            numbers += [r["number"] for r in content["records"]]
            previous, first = batch.hash, batch.upto + 1
        assert numbers == self.written[: len(numbers)]

    def _sealed_upto(self) -> int:
        return self.sealed[-1].upto if self.sealed else 0

    def _acknowledge(self, upto: int, digest: str) -> bool:
        done = self.ledger.record(lambda db: streams.acknowledge(db, _STREAM, upto, digest))
        return done.result()

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


Outbox.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestOutbox = Outbox.TestCase
