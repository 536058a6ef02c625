"""Simulated nodes, a real mosquitto, a real hub: whoever is killed, each record is there once."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.fleet import Fleet, SimNode, usage
from tests.helpers.fleetsite import FleetSite, compare

pytestmark = pytest.mark.integration
NODES = 60
AT = "2026-12-01T00:00:00.000Z"


@pytest.fixture
def nodes() -> list[SimNode]:
    return [SimNode(f"box-{n}") for n in range(NODES)]


@pytest.fixture
def site(tmp_path: Path, nodes: list[SimNode]) -> Iterator[FleetSite]:
    made = FleetSite(tmp_path, nodes)
    try:
        made.start_broker()
        made.start_hub()
        yield made
    finally:
        made.end()


@pytest.fixture
def fleet(site: FleetSite, nodes: list[SimNode]) -> Iterator[Fleet]:
    made = Fleet(site.address, nodes, site.identity.sync.public, verified=1)
    made.start()
    yield made
    made.close()


def write(nodes: list[SimNode], batches: int) -> None:
    for node in nodes:
        for _ in range(batches):
            node.write((usage(node.written + n + 1) for n in range(5)), AT)


def test_each_record_arrives_once_though_broker_and_hub_are_killed(
    site: FleetSite, fleet: Fleet, nodes: list[SimNode]
) -> None:
    fleet.run(lambda: all(node.generation for node in nodes), 60)
    write(nodes, 12)
    fleet.send()
    for name, restart in (("broker", site.start_broker), ("hub", site.start_hub)) * 2:
        so_far = fleet.acked
        fleet.run(partial(fleet.has_come_to, so_far + 1), 60)
        site.kill(name)
        write(nodes, 2)
        restart()
        fleet.run(lambda: fleet.connected == NODES, 60)
    fleet.run(lambda: fleet.is_drained and all(node.generation for node in nodes), 90)
    assert fleet.acked == NODES * 20
    assert fleet.wrong == 0
    assert compare(site.state / "hub.db", nodes) == (0, 0)


def test_the_comparison_finds_what_is_missing(
    site: FleetSite, fleet: Fleet, nodes: list[SimNode]
) -> None:
    write(nodes, 1)
    fleet.run(lambda: fleet.is_drained, 60)
    assert compare(site.state / "hub.db", nodes) == (0, 0)
    nodes[0].written += 2
    nodes[1].name = "somebody else"
    assert compare(site.state / "hub.db", nodes) == (7, 0)
