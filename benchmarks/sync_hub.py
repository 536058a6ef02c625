"""The hub takes in a fleet: 5,000 nodes in one process, a real mosquitto, a real hub.

Broker, hub and the whole fleet share this machine; on two cores they share two cores. There is no
TLS in it. The backlog is sealed before the clock starts, since nodes do that on machines of their
own.
"""

import datetime
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from appliance.kit.clock import rfc3339
from benchmarks.measure import Row, at_least, limit
from tests.helpers.fleet import WINDOW, Fleet, SimNode, usage
from tests.helpers.fleetsite import FleetSite, compare

NODES = 5000
BATCHES = 5
"""Of each node, in the backlog."""
RECORDS = 55
"""In a batch; the target is 50,000 records in 1,000 batches."""
_DOWN_S = 3.0
_PATIENCE_S = 240.0


def run() -> list[Row]:
    """Measure; takes some two minutes."""
    nodes = [SimNode(f"box-{n:05d}") for n in range(NODES)]
    with _site(nodes) as site:
        fleet = Fleet(site.address, nodes, site.identity.sync.public)
        try:
            return [*_drain(site, fleet), *_restart(site, fleet)]
        finally:
            fleet.close()


def _drain(site: FleetSite, fleet: Fleet) -> list[Row]:
    """Let every node send its backlog, and see how fast that is acknowledged.

    Each has one batch under way, so 5,000 are; with more of them the hub could not answer within
    the time after which nodes send again, and repetitions would be measured too.
    """
    fleet.may_send, fleet.window = False, 1
    for _ in range(BATCHES):
        _write(fleet.nodes)
    fleet.start()
    fleet.run(lambda: fleet.connected == NODES, _PATIENCE_S)
    took = fleet.run(lambda: all(n.generation for n in fleet.nodes), _PATIENCE_S)
    print(f"{NODES} nodes are connected; what is asked of all was heard {took:.1f} s later")
    total, seconds, used = NODES * BATCHES, [], site.cpu_s("hub")
    mine = time.process_time()
    fleet.may_send = True
    fleet.send()
    began = time.monotonic()
    for part in range(1, 11):
        fleet.run(partial(fleet.has_come_to, total * part // 10), _PATIENCE_S)
        seconds.append(time.monotonic() - began)
    rate = 0.9 * total / (seconds[-1] - seconds[0])  # the first tenth is the fleet's own start
    used, mine = site.cpu_s("hub") - used, time.process_time() - mine
    tenths = [after - before for before, after in itertools.pairwise(seconds)]
    print(
        f"{total} batches in {seconds[-1]:.1f} s; the hub used {used / seconds[-1]:.2f} cores,"
        f" the fleet {mine / seconds[-1]:.2f}; slowest tenth"
        f" {max(tenths):.2f} s, median {statistics.median(tenths):.2f} s"
    )
    return [
        at_least("hub, signed batches, 5,000 nodes", rate, "batches/s", ("target", 1000), 1.0),
        at_least("hub, records", rate * RECORDS, "records/s", ("target", 50_000), 1.0),
    ]


def _restart(site: FleetSite, fleet: Fleet) -> list[Row]:
    """Kill the broker, have every node write meanwhile, and see when all is well again."""
    fleet.window = WINDOW
    site.kill("broker")
    fleet.run(lambda: fleet.connected == 0, 60)
    _write(fleet.nodes)
    began = time.monotonic()
    fleet.run(lambda: time.monotonic() - began > _DOWN_S, 60)
    site.start_broker()
    took = fleet.run(
        lambda: (
            fleet.connected == NODES and fleet.is_drained and all(n.generation for n in fleet.nodes)
        ),
        _PATIENCE_S,
    )
    if fleet.wrong:
        raise RuntimeError(f"{fleet.wrong} acknowledgements did not verify")
    lost, doubled = compare(site.state / "hub.db", fleet.nodes)
    return [
        limit("5,000 nodes converged after a broker's death", took, "s", 60),
        Row("records lost on the way", lost, "records", "none", 0, 0.0, "0", lost == 0),
        Row("records doubled on the way", doubled, "records", "none", 0, 0.0, "0", doubled == 0),
    ]


def _write(nodes: Sequence[SimNode]) -> None:
    at = rfc3339(datetime.datetime.now(datetime.UTC))
    for node in nodes:
        node.write((usage(node.written + n + 1) for n in range(RECORDS)), at)


@contextmanager
def _site(nodes: Sequence[SimNode]) -> Iterator[FleetSite]:
    scratch = Path(tempfile.mkdtemp(prefix="appliance-bench-"))
    try:
        site = FleetSite(scratch, nodes)
        try:
            site.start_broker()
            site.start_hub()
            yield site
        finally:
            site.end()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
