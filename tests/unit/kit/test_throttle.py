"""A throttle keeps to its rate, over any pattern of use and from several threads."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from appliance.kit.throttle import Throttle


class Watch:
    """Time that passes only by sleeping, or when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(
    rate=st.integers(1_000, 10_000_000),
    steps=st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 5)), max_size=30),
)
def test_never_more_than_its_rate_and_a_quarter_second_s_burst(
    rate: int, steps: list[tuple[int, float]]
) -> None:
    watch = Watch()
    throttle = Throttle(rate, monotonic=watch.monotonic, sleep=watch.sleep)
    began, came = watch.now, 0
    for count, idle_s in steps:
        watch.now += idle_s
        throttle.take(count)
        came += count
        assert came <= rate * (watch.now - began + 0.25) * 1.000001


def test_a_long_transfer_takes_the_rate_in_full() -> None:
    watch = Watch()
    throttle = Throttle(1_000_000, monotonic=watch.monotonic, sleep=watch.sleep)
    for _ in range(100):
        throttle.take(100_000)
    assert 9.7 < watch.now - 100 < 10.1


def test_an_idle_hour_is_not_saved_up() -> None:
    watch = Watch()
    throttle = Throttle(1_000, monotonic=watch.monotonic, sleep=watch.sleep)
    throttle.take(1_000)
    watch.now += 3600
    before = watch.now
    throttle.take(10_000)
    assert watch.now - before > 9.7


def test_without_a_rate_nothing_is_held_back() -> None:
    watch = Watch()
    Throttle(None, monotonic=watch.monotonic, sleep=watch.sleep).take(1 << 50)
    assert watch.now == 100


def test_two_threads_share_one_rate() -> None:
    throttle = Throttle(2_000_000)
    watch = Watch()
    throttle = Throttle(2_000_000, monotonic=watch.monotonic, sleep=watch.sleep)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: throttle.take(100_000), range(100)))
    assert throttle._paid_until - 100 > 4.7


def test_slow_transfers_read_small_pieces() -> None:
    assert (Throttle(None).piece, Throttle(80_000).piece, Throttle(10).piece) == (
        256 << 10,
        10_000,
        4 << 10,
    )
