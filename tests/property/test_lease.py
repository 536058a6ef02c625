"""Never two holders, whatever is slow, cut or killed."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ApplianceError
from appliance.kube.lease import Candidate, LeaseHolder, Term
from tests.fakes.kubeapi import FakeKubeApi

pytestmark = pytest.mark.slow

TERM = Term(30, 20.0, 5.0)
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 4, 9, 19, 21, 29, 31])),
    st.tuples(st.just("try"), st.integers(0, 1)),
    st.tuples(st.just("slow"), st.integers(0, 1)),
    st.tuples(st.just("lost"), st.integers(0, 1)),
    st.tuples(st.just("kill"), st.integers(0, 1)),
    st.tuples(st.just("note"), st.just(0)),
)


class Site:
    """Two candidates in one time, and what can happen to their calls."""

    def __init__(self) -> None:
        self.api = FakeKubeApi()
        self.now = 0.0
        self.starts = 0
        self.all = [self.start(number) for number in range(2)]

    def start(self, number: int) -> LeaseHolder:
        self.starts += 1
        who = Candidate.of(f"n{number}", "boot", str(self.starts))
        return LeaseHolder(self.api, ("s", "planner"), who, TERM, now=lambda: self.now)

    def act(self, what: str, number: int) -> None:
        if what == "wait":
            self.now += number
        elif what == "kill":
            self.all[number] = self.start(number)
        elif what == "note":
            self.note()
        else:
            self.attempt(what, self.all[number])
        self.api.before = lambda *_: None

    def attempt(self, what: str, who: LeaseHolder) -> None:
        if what == "slow":
            self.api.before = lambda *_: self.pass_time(11)
        if what == "lost":
            self.api.before = self.lose
        with contextlib.suppress(ApplianceError):
            who._try()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def lose(self, method: str, _: str) -> None:
        if method != "GET":
            raise ApplianceError("cut")

    def note(self) -> None:
        with contextlib.suppress(ApplianceError):
            self.api.merge(
                "/apis/coordination.k8s.io/v1/namespaces/s/leases/planner",
                {"metadata": {"annotations": {"at": str(self.now)}}},
            )


@given(st.lists(STEPS, max_size=40))
def test_there_are_never_two_holders(steps: list[tuple[str, int]]) -> None:
    site = Site()
    for what, number in steps:
        site.act(what, number)
        assert sum(holder.holds for holder in site.all) <= 1


@given(st.lists(STEPS, max_size=20))
def test_somebody_holds_it_in_the_end(steps: list[tuple[str, int]]) -> None:
    site = Site()
    for what, number in steps:
        site.act(what, number)
    for _ in range(10):
        site.act("wait", 4)
        for number in range(2):
            site.act("try", number)
    assert sum(holder.holds for holder in site.all) == 1
