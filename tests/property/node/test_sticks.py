"""Neither the order of sticks matters nor how often one comes, whoever was restored in between."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.ledger.streams import Stream
from tests.helpers.carrying import Carried

pytestmark = pytest.mark.slow


STICKS = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("note"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["export", "copy", "bring", "take"]), STICKS),
    ),
    max_size=25,
)
STREAMS = (Stream.USAGE, Stream.EVENTS)


class Sticks:
    """A node, a hub and four sticks; ``wrote`` is what each stream must hold at the end."""

    def __init__(self, folder: Path) -> None:
        self.pair = Carried(folder)
        self.wrote = 0

    def note(self, count: int) -> None:
        for stream in STREAMS:
            self.pair.note(count, stream)
        self.wrote += count

    def export(self, number: int) -> None:
        self.pair.export(self.pair.stick(str(number)))

    def copy(self, number: int) -> None:
        """Somebody keeps the next stick as a copy of this one, as it is today."""
        source, target = (self.pair.stick(str(n)) for n in (number, (number + 1) % 4))
        shutil.rmtree(target)
        shutil.copytree(source, target)

    def bring(self, number: int) -> None:
        for replay in self.pair.bring(self.pair.stick(str(number))):
            assert replay.refused == []

    def take(self, number: int) -> None:
        stick = self.pair.stick(str(number))
        if (stick / "dn").exists():
            assert all(t.result != "refused" for t in self.pair.take(stick))

    def finish(self) -> None:
        """One more whole round: then both ends have the same."""
        for step in (self.export, self.bring, self.take):
            step(9)
        for stream in STREAMS:
            assert len(self.pair.at_hub(stream)) == self.wrote
            assert self.pair.left(stream) == 0


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_both_ends_have_the_same_in_the_end(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sticks = Sticks(Path(folder))
        try:
            for name, argument in steps:
                getattr(sticks, name)(argument)
            sticks.finish()
            hub = sticks.pair.desk.hub
            rows = hub.db.read(
                lambda db: db.execute("SELECT seq FROM records WHERE stream = 'usage'").fetchall()
            )
            assert sorted(r[0] for r in rows) == list(range(1, sticks.wrote + 1))
            assert hub.refusals() == []
        finally:
            sticks.pair.close()
