"""Who holds a Lease, by nobody's clock but one's own."""

import asyncio
import contextlib

import pytest

from appliance.errors import PeerUnreachableError
from appliance.kube.lease import Candidate, LeaseHolder, Record, Term
from appliance.kube.resources import LEASES
from tests.fakes.kubeapi import FakeKubeApi
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

WHERE = ("edge-system", "planner")
TERM = Term(30, 20.0, 5.0)


class Hand:
    """Time that stands where a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def candidate(name: str) -> Candidate:
    return Candidate.of(f"node-{name}", "b00t", name)


def holder(api: FakeKubeApi, name: str, now: Hand) -> LeaseHolder:
    return LeaseHolder(api, WHERE, candidate(name), TERM, now=now)


def test_the_first_takes_it_and_the_second_waits_until_it_was_seen_unchanged() -> None:
    api, now = FakeKubeApi(), Hand()
    one, two = holder(api, "a", now), holder(api, "b", now)
    one._try()
    two._try()
    assert (one.holds, two.holds, two.holder) == (True, False, one._candidate.identity)
    now.now += 29.9
    two._try()
    assert [h.holds for h in (one, two)] == [False, False]
    now.now += 0.2
    two._try()
    assert [h.holds for h in (one, two)] == [False, True]


def test_a_holder_stops_before_anybody_may_take_over() -> None:
    api, now = FakeKubeApi(), Hand()
    one = holder(api, "a", now)
    one._try()
    now.now += 19.9
    assert one.holds
    now.now += 0.2
    assert not one.holds


def test_the_time_an_answer_took_is_the_holders_loss() -> None:
    api, now = FakeKubeApi(), Hand()
    one = holder(api, "a", now)

    def slow(*_: str) -> None:
        now.now += 9

    api.before = slow
    one._try()
    api.before = lambda *_: None
    now.now += 3
    assert not one.holds


def test_times_in_the_lease_mean_nothing() -> None:
    """A holder whose clock is in 1970, or in 2038, is as alive as any other."""
    api, now = FakeKubeApi(), Hand()
    one, two = holder(api, "a", now), holder(api, "b", now)
    one._try()
    for year in range(1970, 1990):
        now.now += 10
        api.merge(LEASES.path(*WHERE), {"spec": {"renewTime": f"{year}-01-01T00:00:00.000000Z"}})
        two._try()
        assert not two.holds


def test_a_deleted_lease_is_not_free_before_its_time() -> None:
    api, now = FakeKubeApi(), Hand()
    one, two = holder(api, "a", now), holder(api, "b", now)
    one._try()
    two._try()
    api.delete(LEASES.path(*WHERE))
    two._try()
    assert not two.holds
    one._try()
    one._try()
    assert one.holds


def test_an_outage_ends_it_and_no_earlier_than_it_must() -> None:
    api, now = FakeKubeApi(), Hand()
    one = holder(api, "a", now)
    one._try()
    api.away = True
    with pytest.raises(PeerUnreachableError):
        one._try()
    assert one.holds
    now.now += 20
    assert [one.holds] == [False]
    api.away = False
    one._try()
    assert one.holds


def test_somebody_elses_note_on_the_lease_loses_nothing() -> None:
    api, now = FakeKubeApi(), Hand()
    one = holder(api, "a", now)
    one._try()
    api.merge(LEASES.path(*WHERE), {"metadata": {"annotations": {"a": "b"}}})
    one._try()
    assert one.holds
    now.now += 5
    one._try()
    now.now += 19
    assert one.holds


def test_a_successor_of_the_same_boot_need_not_wait_and_a_copy_elsewhere_must() -> None:
    api, now = FakeKubeApi(), Hand()
    holder(api, "a", now)._try()
    again = LeaseHolder(api, WHERE, Candidate.of("node-a", "b00t", "next"), TERM, now=now)
    again._try()
    assert again.holds
    copy = LeaseHolder(api, WHERE, Candidate.of("node-a", "other", "x"), TERM, now=now)
    copy._try()
    assert not copy.holds
    bare = LeaseHolder(api, WHERE, Candidate("node-a_b00t_y"), TERM, now=now)
    bare._try()
    assert not bare.holds


def test_who_ends_gives_it_back_and_the_next_need_not_wait() -> None:
    async def story() -> None:
        api, now = FakeKubeApi(), Hand()
        changes: list[bool] = []
        one = LeaseHolder(
            api, WHERE, candidate("a"), TERM, now=now, changed=lambda: changes.append(one.holds)
        )
        task = asyncio.create_task(one.run())
        await until(lambda: changes)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (one.holds, changes) == (False, [True, False])
        assert Record.of(api.get(LEASES.path(*WHERE))).holder == ""
        two = holder(api, "b", now)
        two._try()
        assert two.holds
        assert api.get(LEASES.path(*WHERE))["spec"]["leaseTransitions"] == 2

    asyncio.run(story())


def test_who_does_not_hold_it_gives_nothing_back() -> None:
    async def story() -> None:
        api, now = FakeKubeApi(), Hand()
        holder(api, "a", now)._try()
        task = asyncio.create_task((two := holder(api, "b", now)).run())
        await until(lambda: two.holder)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert Record.of(api.get(LEASES.path(*WHERE))).holder == candidate("a").identity

    asyncio.run(story())


def test_a_loop_says_that_it_lost_while_the_server_is_away() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        lost = asyncio.Event()
        one = LeaseHolder(
            api, WHERE, candidate("a"), Term(2, 0.4, 0.1),
            changed=lambda: None if one.holds else lost.set(),
        )  # fmt: skip
        task = asyncio.create_task(one.run())
        await until(lambda: one.holds)
        api.away = True
        await asyncio.wait_for(lost.wait(), 2)
        api.away = False
        await until(lambda: one.holds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_a_term_that_would_let_two_lead_is_refused() -> None:
    with pytest.raises(ValueError, match="before"):
        Term(10, 10.0, 2.0)
