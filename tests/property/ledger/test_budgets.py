"""Whatever a budget takes, every number that was ever given has one place, and one alone."""

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appliance.core import wire
from appliance.ledger import budgets, sizes, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Position, Record, SealedBatch, Stream

pytestmark = pytest.mark.slow


_MOST = 6000


class Budgets(RuleBasedStateMachine):
    """A ledger with tiny budgets, and what its batches said when they were sealed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.written = 0
        self.second = 0
        self.sealed: list[SealedBatch] = []

    @initialize(stream=st.sampled_from([Stream.METRICS, Stream.EVENTS]))
    def open(self, stream: Stream) -> None:
        self.stream = stream
        self._open()

    def _open(self) -> None:
        self.ledger = Ledger(Path(self.folder.name) / "node.db")
        self.ledger.record(partial(budgets.begin, limits={self.stream: _MOST})).result()

    @rule(count=st.integers(1, 120), every_s=st.sampled_from([1, 1, 20, 400]))
    def write(self, count: int, every_s: int) -> None:
        facts = []
        for _ in range(count):
            self.second += every_s
            at = f"2026-12-{1 + self.second // 86400 % 28:02}T"
            at += (
                f"{self.second // 3600 % 24:02}:{self.second // 60 % 60:02}:{self.second % 60:02}Z"
            )
            self.written += 1
            facts.append(Fact(self.stream, "host", at, {"n": self.written}))
        self.ledger.note(*facts).result()

    @rule()
    def step(self) -> None:
        before = self._held()
        kept = self.ledger.record(partial(budgets.step, stream=self.stream)).result()
        assert kept or self._held() == before
        assert before > _MOST * 0.9 or not kept, "nothing gives way below the budget"

    @rule()
    def enforce(self) -> None:
        while self.ledger.record(partial(budgets.step, stream=self.stream)).result():
            pass
        sealed = self.ledger.read(partial(sizes.sealed, stream=self.stream))
        assert self._held() <= max(_MOST, sealed + 600), "but for the newest and a gap"

    @rule(take=st.integers(1, 50))
    def seal(self, take: int) -> None:
        def make(position: Position, records: list[Record]) -> SealedBatch:
            taken = records[:take]
            data = wire.dumps([r.record for r in taken])
            digest = hashlib.sha256(position.sealed_hash.encode() + data).hexdigest()
            count = sum(r.span for r in taken)
            return SealedBatch(self.stream, taken[0].seq, count, digest, data)

        effect = partial(streams.seal, stream=self.stream, make=make, most=take + 5)
        batch = self.ledger.record(effect).result()
        if batch is not None:
            self.sealed.append(batch)

    @rule()
    def acknowledge(self) -> None:
        if self.sealed:
            last = self.sealed[-1]
            self.ledger.record(
                lambda db: streams.acknowledge(db, self.stream, last.upto, last.hash)
            ).result()

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self._open()

    @invariant()
    def every_number_has_one_place(self) -> None:
        expected = 1
        for seq, record in self._everything():
            assert seq == expected
            span = record.get("span", 1)
            body: dict[str, Any] = record["body"]
            if record["kind"] == "gap":
                assert body["records"] == span
            elif record["kind"] == "coarse":
                seen = body["series"].get("host", {}).get("n", [0, 0, 0, 0])
                assert seen[0] + body.get("missing", 0) == span
                assert seq <= seen[1] <= seen[3] < seq + span
            else:
                assert (body["n"], span) == (seq, 1)
            expected += span
        assert expected == self.written + 1

    @invariant()
    def the_count_is_right(self) -> None:
        sealed = self.ledger.read(partial(sizes.sealed, stream=self.stream))
        assert self._held() == sealed + sum(sizes.size_of(r.text) for r in self._waiting())

    def _everything(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what ever was sealed, as it was sealed, and what waits."""
        found = []
        for batch in self.sealed:
            seq = batch.first
            for record in wire.loads(b'{"all":%s}' % batch.envelope, what="a batch")["all"]:
                found.append((seq, record))
                seq += record.get("span", 1)
            assert seq == batch.upto + 1
        return [*found, *((r.seq, r.record) for r in self._waiting())]

    def _waiting(self) -> list[Record]:
        return self.ledger.read(lambda db: list(streams.waiting(db, self.stream, 100_000)))

    def _held(self) -> int:
        return self.ledger.read(partial(budgets.held, stream=self.stream))

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


Budgets.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestBudgets = Budgets.TestCase
