"""In whatever order sticks travel, the floor never goes down and no answer counts twice."""

import datetime
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.errors import ExpiredError, NotFoundError, ReplayError
from appliance.trust import floor
from tests.helpers.signing import new_key
from tests.helpers.sticks import DAY, Desk, Site

pytestmark = pytest.mark.slow


STICKS = st.sampled_from(["red", "green", "blue"])
DAYS = st.integers(0, 2000)


class Sticks(RuleBasedStateMachine):
    """Sticks go between a node and its hub in any order, are copied, and lie about for years."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        sync = new_key()
        self.site = Site(self.folder / "node", sync)
        self.desk = Desk(self.folder / "hub", sync)
        self.desk.admit(self.site)
        self.offline = floor.BUILT
        self.lowest = floor.BUILT
        self.taken: set[bytes] = set()
        for name in ("red", "green", "blue"):
            (self.folder / name).mkdir()

    def teardown(self) -> None:
        self.site.close()
        self.desk.close()
        shutil.rmtree(self.folder)

    @rule(year=st.sampled_from([1970, 2026, 2027, 2028, 2038]))
    def the_nodes_clock_jumps(self, year: int) -> None:
        self.site.clock.time = datetime.datetime(year, 12, 24, tzinfo=datetime.UTC)

    @rule(days=DAYS)
    def the_hubs_clock_moves(self, days: int) -> None:
        self.desk.clock.time = floor.BUILT + days * DAY

    @rule(days=st.integers(0, 600))
    def a_bundle_comes(self, days: int) -> None:
        self.offline = max(self.offline, floor.BUILT + days * DAY)
        self.site.sign_offline(floor.BUILT + days * DAY)

    @rule(stick=STICKS)
    def a_stick_goes_out(self, stick: str) -> None:
        self.site.book.export(self.folder / stick)

    @rule(stick=STICKS)
    def a_stick_comes_to_the_hub(self, stick: str) -> None:
        try:
            (found,) = self.desk.take(self.folder / stick)
        except NotFoundError:
            return
        assert found.refused == []
        assert found.forks == 0

    @rule(stick=STICKS, other=STICKS)
    def a_stick_is_copied(self, stick: str, other: str) -> None:
        if stick != other:
            shutil.copytree(self.folder / stick, self.folder / other, dirs_exist_ok=True)

    @rule(stick=STICKS)
    def a_stick_comes_back(self, stick: str) -> None:
        answer = self.folder / stick / "dn" / "box-1" / "time.json"
        try:
            found = self.site.answers.take_folder(self.folder / stick)
        except (NotFoundError, ReplayError, ExpiredError):
            return
        data = answer.read_bytes()
        assert data not in self.taken, "an answer counted twice"
        self.taken.add(data)
        time = datetime.datetime.fromisoformat(found.time)
        assert self.site.floor() >= min(time, self.offline + floor.SPAN)
        assert self.site.nonce() is None

    @invariant()
    def the_floor_never_goes_down_and_no_online_key_takes_it_far(self) -> None:
        now = self.site.floor()
        assert self.lowest <= now <= self.offline + floor.SPAN
        self.lowest = now

    @invariant()
    def the_hub_sees_one_history(self) -> None:
        assert all(chain.forks == () for chain in self.desk.chains())


TestSticks = Sticks.TestCase
TestSticks.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
