"""The hub takes in a fleet: 5,000 nodes in one process, a real mosquitto, a real hub.

Broker, hub and the whole fleet share this machine; on two cores they share two cores. There is no
TLS in it. The backlog is sealed before the clock starts, since nodes do that on machines of their
own.
"""

import datetime
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.hub import identity, store
from appliance.hub.migrations import migrations
from appliance.kit.clock import rfc3339
from appliance.kit.commit import GroupCommit
from appliance.kit.http import HttpClient
from appliance.sync.mqtt import BrokerAddress
from benchmarks.measure import Row, at_least, cpu_s, limit
from tests.helpers.fleet import ORG, Fleet, SimNode, usage
from tests.helpers.models import deployment

NODES = 5000
BATCHES = 5
"""Of each node, in the backlog."""
RECORDS = 55
"""In a batch; the target is 50,000 records in 1,000 batches."""
_DOWN_S = 3.0
_PATIENCE_S = 240.0


class Site:
    """A broker and a hub as processes, on ports of their own."""

    def __init__(self, folder: Path, names: list[SimNode]) -> None:
        """Make the hub, know its nodes, ask each for a deployment."""
        self.state = folder / "hub"
        self.broker = _free_port()
        self._hub_port = _free_port()
        self._log = (folder / "log").open("wb")
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(
            f"listener {self.broker} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_inflight_messages 0\nmax_queued_messages 200000\n"
        )
        self.identity = identity.create(self.state, ORG)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        db = GroupCommit(self.state / "hub.db", migrations)
        at, asked = rfc3339(datetime.datetime.now(datetime.UTC)), [deployment()]
        for node in names:
            db.submit(partial(store.admit, node=node.name, key=node.key.public, at=at))
            done = db.submit(partial(store.put_documents, name=node.name, found=asked))
        done.result()
        db.close()

    def start_broker(self) -> None:
        """Start mosquitto and wait until it listens."""
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._start("broker", [program, "-c", str(self._settings)])
        _wait(lambda: _listens(self.broker))

    def start_hub(self) -> None:
        """Start the hub and wait until it is connected to the broker."""
        self._start("hub", [sys.executable, "-m", "appliance", "hub", "run", "--state-dir",
                            str(self.state)])  # fmt: skip
        client = HttpClient.over_tcp(
            f"http://127.0.0.1:{self._hub_port}", "the hub", "", self.identity.token
        )
        _wait(lambda: bool(client.call("GET", "/api/v1/receipts")) or True)

    def kill(self, name: str) -> None:
        """Kill a process, as a power cut would."""
        self._processes[name].kill()
        self._processes[name].wait()

    def cpu_s(self, name: str) -> float:
        """Return the processor time of a process."""
        return cpu_s(self._processes[name].pid)

    def end(self) -> None:
        """End everything."""
        for name in self._processes:
            self.kill(name)
        self._log.close()

    def _start(self, name: str, command: list[str]) -> None:
        environment = {
            **os.environ,
            "APPLIANCE_HUB_PORT": str(self._hub_port),
            "APPLIANCE_HUB_BROKER": f"mqtt://127.0.0.1:{self.broker}",
        }
        self._processes[name] = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log
        )


def run() -> list[Row]:
    """Measure; takes some two minutes."""
    nodes = [SimNode(f"box-{n:05d}") for n in range(NODES)]
    with _site(nodes) as site:
        fleet = Fleet(
            BrokerAddress("127.0.0.1", site.broker), nodes, site.identity.sync.public
        )
        try:
            return [*_drain(site, fleet), *_restart(site, fleet)]
        finally:
            fleet.close()


def _drain(site: Site, fleet: Fleet) -> list[Row]:
    """Let every node send its backlog, and see how fast that is acknowledged."""
    fleet.may_send = False
    fleet.start()
    fleet.run(lambda: fleet.connected == NODES, _PATIENCE_S)
    took = fleet.run(lambda: all(n.generation for n in fleet.nodes), _PATIENCE_S)
    print(f"{NODES} nodes are connected; what is asked of all was heard {took:.1f} s later")
    for _ in range(BATCHES):
        _write(fleet.nodes)
    fleet.run(lambda: True, 1)
    total, seconds, used = NODES * BATCHES, [], site.cpu_s("hub")
    mine = time.process_time()
    fleet.may_send = True
    fleet.send()
    began = time.monotonic()
    for part in range(1, 11):
        fleet.run(lambda part=part: fleet.acked >= total * part // 10, _PATIENCE_S)
        seconds.append(time.monotonic() - began)
    middle = (seconds[8] - seconds[0]) / 8
    rate = total / 10 / middle
    used, mine = site.cpu_s("hub") - used, time.process_time() - mine
    print(
        f"{total} batches in {seconds[-1]:.1f} s; the hub used {used / seconds[-1]:.2f} cores,"
        f" the fleet {mine / seconds[-1]:.2f}; slowest tenth"
        f" {max(b - a for a, b in zip(seconds, seconds[1:], strict=False)):.2f} s,"
        f" median {statistics.median(b - a for a, b in zip(seconds, seconds[1:], strict=False)):.2f} s"
    )
    return [
        at_least("hub, signed batches, 5,000 nodes", rate, "batches/s", ("target", 1000), 1.0),
        at_least("hub, records", rate * RECORDS, "records/s", ("target", 50_000), 1.0),
    ]


def _restart(site: Site, fleet: Fleet) -> list[Row]:
    """Kill the broker, have every node write meanwhile, and see when all is well again."""
    site.kill("broker")
    fleet.run(lambda: fleet.connected == 0, 60)
    _write(fleet.nodes)
    began = time.monotonic()
    fleet.run(lambda: time.monotonic() - began > _DOWN_S, 60)
    site.start_broker()
    took = fleet.run(
        lambda: fleet.connected == NODES
        and fleet.is_drained
        and all(n.generation for n in fleet.nodes),
        _PATIENCE_S,
    )
    if fleet.wrong:
        raise RuntimeError(f"{fleet.wrong} acknowledgements did not verify")
    lost, doubled = _compare(site.state / "hub.db", fleet.nodes)
    return [
        limit("5,000 nodes converged after a broker's death", took, "s", 60),
        Row("records lost on the way", lost, "records", "none", 0, 0.0, "0", lost == 0),
        Row("records doubled on the way", doubled, "records", "none", 0, 0.0, "0", doubled == 0),
    ]


def _write(nodes: list[SimNode]) -> None:
    at = rfc3339(datetime.datetime.now(datetime.UTC))
    for node in nodes:
        node.write((usage(node.written + n + 1) for n in range(RECORDS)), at)


def _compare(path: Path, nodes: list[SimNode]) -> tuple[int, int]:
    """Return how many records of all nodes are missing at the hub, and how many too many."""
    db = sqlite3.connect(path)
    lost = doubled = 0
    for node in nodes:
        rows = db.execute(
            "SELECT seq, record FROM records WHERE node = ? AND stream = 'usage' ORDER BY seq",
            (node.name,),
        )
        found = [seq for seq, text in rows if json.loads(text)["body"] == usage(seq)]
        lost += len(set(range(1, node.written + 1)) - set(found))
        doubled += len(found) - len(set(found))
    db.close()
    return lost, doubled


@contextmanager
def _site(nodes: list[SimNode]) -> Iterator[Site]:
    scratch = Path(tempfile.mkdtemp(prefix="appliance-bench-"))
    try:
        site = Site(scratch, nodes)
        try:
            site.start_broker()
            site.start_hub()
            yield site
        finally:
            site.end()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except ApplianceError:
            pass
        time.sleep(0.1)
    raise RuntimeError("it did not come up")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
