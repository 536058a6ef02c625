"""A site without a link and without a clock: three folders, one stick, and time that is known."""

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle.take.answers import TimeTaken
from appliance.errors import ReplayError, SignatureError
from appliance.hub import store
from appliance.ledger import meta
from appliance.node.freshness import freshness
from appliance.trust.keys import SigningKey
from tests.helpers.organisation import Node, Organisation
from tests.helpers.sticks import DAY, Desk
from tests.helpers.waiting import StillClock

YEARS = {
    "1970": datetime.datetime(1970, 1, 1, 0, 3, tzinfo=datetime.UTC),
    "2038": datetime.datetime(2038, 1, 19, 3, 14, tzinfo=datetime.UTC),
}


class Story:
    """The technician walks between the node's folder, the hub's, and the stick's."""

    def __init__(self, folder: Path, organisation: Organisation) -> None:
        self.clock = StillClock()
        self.node = Node.create(folder / "node", organisation.root, self.clock)
        self.stick = folder / "stick"
        self.stick.mkdir()
        self.desk = Desk(folder / "hub", organisation.sync)
        key = SigningKey.open(folder / "node" / "identity" / "node.pem").public
        self.desk.hub.db.submit(lambda db: store.admit(db, "box-1", key, "long ago")).result()

    def import_bundle(self, bundle: Path) -> None:
        self.node.importer.run(bundle, "a test")

    def time(self) -> tuple[str, bool]:
        found = self.node.ledger.read(lambda db: freshness(db, self.clock))
        return found["now"], found["proven"]

    def floor(self) -> datetime.datetime:
        found = self.node.ledger.read(meta.floor)
        assert found is not None
        return found


@pytest.fixture
def story(tmp_path: Path, organisation: Organisation) -> Iterator[Story]:
    made = Story(tmp_path, organisation)
    yield made
    made.node.close()
    made.desk.close()


@pytest.mark.parametrize("year", YEARS)
def test_a_stick_brings_the_time_to_a_node_whose_clock_is_wrong(
    story: Story, small_bundle: Path, year: str
) -> None:
    story.clock.time = YEARS[year]
    story.import_bundle(small_bundle)
    built = story.floor()
    assert story.time() == (stamp(built), False)

    exported = story.node.receipts.export(story.stick)
    assert exported.written == exported.upto == 2
    story.desk.clock.time = built + 20 * DAY
    (delivery,) = story.desk.take(story.stick)
    assert (delivery.new, delivery.answered, delivery.refused) == (2, True, [])
    (chain,) = story.desk.chains()
    assert (chain.upto, chain.head[:8], chain.gaps, chain.forks) == (2, exported.head[:8], (), ())

    taken = story.node.answers.take_folder(story.stick)
    assert taken == TimeTaken(stamp(built + 20 * DAY), stamp(built + 20 * DAY))
    assert story.time() == (stamp(built + 20 * DAY), False), "the clock is still wrong"
    with pytest.raises(ReplayError):
        story.node.answers.take_folder(story.stick)

    story.clock.time = built + 15 * DAY
    assert not story.time()[1], "a clock that was set wrongly shows, too"
    story.clock.time = built + 20 * DAY + DAY / 24
    assert story.time()[1], "the technician has set it"
    assert story.floor() == built + 20 * DAY


def test_after_a_long_time_on_a_shelf_a_right_clock_is_believed_again(
    story: Story, small_bundle: Path
) -> None:
    story.clock.time = datetime.datetime.now(datetime.UTC)
    story.import_bundle(small_bundle)
    built = story.floor()
    now = built + 450 * DAY
    story.clock.time = story.desk.clock.time = now
    assert story.time() == (stamp(built), False)
    story.node.receipts.export(story.stick)
    story.desk.take(story.stick)
    story.node.answers.take_folder(story.stick)
    assert story.time() == (stamp(now), True)
    assert story.floor() == built + 400 * DAY, "no further than an online key may"


def test_of_two_sticks_the_slower_one_changes_nothing(
    story: Story, small_bundle: Path, tmp_path: Path
) -> None:
    story.import_bundle(small_bundle)
    slow = tmp_path / "slow"
    slow.mkdir()
    for medium, days in ((slow, 5), (story.stick, 30)):
        story.node.receipts.export(medium)
        story.desk.clock.time = story.floor() + days * DAY
        story.desk.take(medium)
    story.node.answers.take_folder(story.stick)
    before = story.floor()
    with pytest.raises(ReplayError):
        story.node.answers.take_folder(slow)
    assert story.floor() == before


def stamp(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_another_hubs_answer_is_not_believed(story: Story, small_bundle: Path) -> None:
    story.import_bundle(small_bundle)
    story.node.receipts.export(story.stick)
    identity = story.desk.hub.identity
    story.desk.hub.service._identity = replace(identity, sync=identity.director)
    story.desk.take(story.stick)
    before = story.floor()
    with pytest.raises(SignatureError):
        story.node.answers.take_folder(story.stick)
    assert story.floor() == before
