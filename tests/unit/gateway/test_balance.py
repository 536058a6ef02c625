"""Which engine is asked."""

from contextlib import ExitStack

from appliance.core.routes import Endpoint
from appliance.gateway.balance import Balancer

NEAR, FAR = Endpoint("a", "http://10.0.0.1:8080", "n1"), Endpoint("b", "http://10.0.1.1:8080", "n2")


class Watch:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_near_one_is_asked_unless_it_has_more_to_do() -> None:
    balancer = Balancer("n1")
    with ExitStack() as stack:
        chosen = []
        for _ in range(4):
            endpoint = balancer.choose((FAR, NEAR))
            stack.enter_context(balancer.asking(endpoint))
            chosen.append(endpoint)
    assert chosen == [NEAR, FAR, NEAR, FAR]
    assert balancer.choose((FAR, NEAR)) == NEAR, "all are over"


def test_where_nothing_is_known_nothing_is_far() -> None:
    assert Balancer("").choose((FAR, NEAR)) == FAR
    nowhere = Endpoint("c", "/run/c.sock")
    assert Balancer("n1").choose((nowhere, NEAR)) == nowhere


def test_one_that_failed_is_left_out_for_a_while_although_it_is_idle_and_near() -> None:
    watch = Watch()
    balancer = Balancer("n1", watch)
    balancer.failed(NEAR)
    with balancer.asking(FAR), balancer.asking(FAR):
        assert balancer.choose((NEAR, FAR)) == FAR
        watch.now = 3.0
        assert balancer.choose((NEAR, FAR)) == NEAR


def test_one_that_failed_is_asked_if_there_is_no_other() -> None:
    balancer = Balancer()
    balancer.failed(NEAR)
    assert balancer.choose((NEAR,)) == NEAR
    balancer.failed(FAR)
    assert balancer.choose((NEAR, FAR)) == NEAR
