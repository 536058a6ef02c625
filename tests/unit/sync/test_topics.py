"""Every topic is built and parsed in one place, and nothing else passes for one of ours."""

import pytest

from appliance.core.ids import NodeId
from appliance.sync.topics import Downward, NodeTopics, Upward, parse_downward, parse_upward

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


def test_what_comes_down_is_known_by_its_topic() -> None:
    said = {
        TOPICS.desired: Downward("desired"),
        TOPICS.ack: Downward("ack"),
        TOPICS.time: Downward("time"),
        TOPICS.certificate: Downward("cert"),
        TOPICS.command("c-1"): Downward("cmd", "c-1"),
    }
    assert {topic: parse_downward(topic, NODE) for topic in said} == said


@pytest.mark.parametrize(
    "topic", ["ea1/other/dn/desired", "ea1/box-1/dn/cmd/", "ea1/box-1/dn/cmd/a/b", "x/box-1/dn/ack"]
)
def test_what_is_not_for_this_node_is_nothing(topic: str) -> None:
    assert parse_downward(topic, NODE) is None


def test_outcomes_and_requests_are_known_by_their_topics() -> None:
    assert parse_upward(TOPICS.outcome("c-1")) == Upward(NODE, "outcome", "c-1")
    assert parse_upward(TOPICS.request) == Upward(NODE, "request")
