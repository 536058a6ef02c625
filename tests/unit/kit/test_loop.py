"""One loop shape, whose hours take no time here."""

import asyncio
import itertools
import logging

import pytest

from appliance.errors import (
    ApplianceError,
    MalformedError,
    NoSpaceError,
    PeerUnreachableError,
    SignatureError,
)
from appliance.kit import backoff
from appliance.kit.clock import SystemClock
from appliance.kit.loop import Again, Wake, drive
from tests.helpers.clock import ScriptedClock, StoppedError
from tests.helpers.waiting import until

Step = Again | Exception | None
RETRIED = PeerUnreachableError("nobody there")


def slept(steps: list[Step], resync_s: float = 300) -> list[float]:
    """Return what a loop sleeps whose passes end as ``steps`` say, the last one for ever."""
    clock = ScriptedClock(limit=len(steps))
    left = itertools.chain(steps, itertools.repeat(steps[-1]))

    async def reconcile() -> Again | None:
        step = next(left)
        if isinstance(step, Exception):
            raise step
        return step

    with pytest.raises(StoppedError):
        asyncio.run(drive(reconcile, Wake(), clock, name="it", resync_s=resync_s))
    return clock.slept


@pytest.mark.parametrize("error", [RETRIED, NoSpaceError("full"), OSError("flaky"), KeyError("x")])
def test_a_failure_waits_longer_each_time_up_to_the_resync_interval(error: Exception) -> None:
    assert slept([error] * 6, resync_s=6) == [0.5, 1, 2, 4, 6, 6]
    assert slept([error] * 8, resync_s=600)[-2:] == [30, 30], "who was away long is soon heard"


@pytest.mark.parametrize("error", [SignatureError("not signed"), MalformedError("not JSON")])
def test_a_refusal_waits_for_the_resync_at_once(error: ApplianceError) -> None:
    assert slept([error, error]) == [300, 300]


def test_a_success_resets_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert slept([RETRIED, RETRIED, None, RETRIED]) == [0.5, 1, 300, 0.5]
    assert "it: nobody there; trying again" in caplog.text


def test_a_pass_may_ask_to_be_repeated_sooner_but_not_later_than_the_resync() -> None:
    assert slept([Again(after_s=2), Again(after_s=1000), None]) == [2, 300, 300]


def test_an_error_that_nobody_expected_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slept([KeyError("lost")])
    assert "Traceback" in caplog.text
    assert "KeyError: 'lost'" in caplog.text


def test_a_wake_starts_the_next_pass_and_many_count_once() -> None:
    async def scenario() -> int:
        passes = 0

        async def reconcile() -> None:
            nonlocal passes
            passes += 1

        wake = Wake()
        loop = asyncio.create_task(drive(reconcile, wake, SystemClock(), name="it", resync_s=3600))
        await until(lambda: passes == 1)
        for _ in range(5):
            wake.set()
        await until(lambda: passes == 2)
        await asyncio.sleep(0.01)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        return passes

    assert asyncio.run(scenario()) == 2


def test_a_wake_during_a_pass_is_not_lost() -> None:
    async def scenario() -> None:
        passes = 0
        wake = Wake()

        async def reconcile() -> None:
            nonlocal passes
            passes += 1
            if passes == 1:
                wake.set()

        loop = asyncio.create_task(drive(reconcile, wake, SystemClock(), name="it", resync_s=3600))
        await until(lambda: passes == 2)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)

    asyncio.run(scenario())


def test_a_cancelled_loop_leaves_no_task_behind() -> None:
    async def scenario() -> int:
        loop = asyncio.create_task(Wake().wait(SystemClock(), 3600))
        await asyncio.sleep(0.01)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1


def test_delays_grow_and_stay_at_the_most() -> None:
    assert list(itertools.islice(backoff.growing(0.5, 3), 5)) == [0.5, 1, 2, 3, 3]
    assert list(itertools.islice(backoff.growing(5, 3), 2)) == [3, 3]


def test_full_jitter_stays_below_its_bound_and_above_nothing() -> None:
    for _ in range(20):
        for delay, bound in zip(backoff.full_jitter(0.5, 8), [0.5, 1, 2, 4, 8, 8], strict=False):
            assert bound / 10 <= delay <= bound
