"""Every topic is built and parsed in one place, and nothing else passes for one of ours."""

import pytest

from appliance.core.ids import NodeId
from appliance.sync.topics import NodeTopics, Upward, parse_upward

NODE = NodeId("box-1")
TOPICS = NodeTopics(NODE)


def test_the_topics_are_those_of_the_design() -> None:
    assert TOPICS.desired == "ea1/box-1/dn/desired"
    assert TOPICS.ack == "ea1/box-1/dn/ack"
    assert TOPICS.time == "ea1/box-1/dn/time"
    assert TOPICS.state == "ea1/box-1/up/state"
    assert TOPICS.reported == "ea1/box-1/up/reported"
    assert TOPICS.stream("usage") == "ea1/box-1/up/s/usage"


def test_what_goes_up_is_read_back() -> None:
    assert parse_upward(TOPICS.state) == Upward(NODE, "state")
    assert parse_upward(TOPICS.reported) == Upward(NODE, "reported")
    assert parse_upward(TOPICS.stream("audit")) == Upward(NODE, "stream", "audit")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "ea1",
        "ea1/box-1/up",
        "ea1/box-1/up/",
        "ea1/box-1/up/cmd",
        "ea1/box-1/up/s",
        "ea1/box-1/up/s/audit/more",
        "ea1/box-1/up/state/more",
        "ea1/Box/up/state",
        "ea1//up/state",
        "ea1/box-1\n/up/state",
        "ea2/box-1/up/state",
        "/ea1/box-1/up/state",
        TOPICS.desired,
        TOPICS.ack,
    ],
)
def test_what_is_not_one_of_ours_is_passed_over(topic: str) -> None:
    assert parse_upward(topic) is None
