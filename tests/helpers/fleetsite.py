"""A broker and a hub as processes of their own, for a simulated fleet."""

import datetime
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from appliance.errors import PeerUnreachableError
from appliance.hub import identity, store
from appliance.hub.migrations import migrations
from appliance.kit.clock import rfc3339
from appliance.kit.commit import GroupCommit
from appliance.kit.http import HttpClient
from appliance.sync.mqtt import BrokerAddress
from benchmarks.measure import cpu_s
from tests.conftest import need_tool
from tests.helpers.fleet import ORG, SimNode, usage
from tests.helpers.models import deployment
from tests.helpers.waiting import wait_until


class FleetSite:
    """A broker and a hub as processes, on ports of their own."""

    def __init__(self, folder: Path, nodes: Sequence[SimNode]) -> None:
        """Make the hub, know its nodes, ask each for a deployment."""
        self.state = folder / "hub"
        self.address = BrokerAddress("127.0.0.1", _free_port())
        self._hub_port = _free_port()
        self._log = (folder / "log").open("wb")
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(
            f"listener {self.address.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_inflight_messages 1000\nmax_queued_messages 200000\n"
        )
        self.identity = identity.create(self.state, ORG)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        db = GroupCommit(self.state / "hub.db", migrations)
        at = rfc3339(datetime.datetime.now(datetime.UTC))
        asked = [deployment()]
        for node in nodes:
            db.submit(partial(store.admit, node=node.name, key=node.key.public, at=at))
            done = db.submit(partial(store.put_documents, name=node.name, found=asked))
        done.result()
        db.close()

    def start_broker(self) -> None:
        """Start mosquitto and wait until it listens."""
        self._start("broker", [need_tool("mosquitto"), "-c", str(self._settings)])
        wait_until(lambda: _listens(self.address.port), "the broker")

    def start_hub(self) -> None:
        """Start the hub and wait until it answers."""
        program = [sys.executable, "-m", "appliance", "hub", "run"]
        self._start("hub", [*program, "--state-dir", str(self.state)])
        client = HttpClient.over_tcp(
            f"http://127.0.0.1:{self._hub_port}", "the hub", "", self.identity.token
        )
        wait_until(lambda: client.call("GET", "/api/v1/receipts"), "the hub", 60)

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
            "APPLIANCE_HUB_BROKER": f"mqtt://127.0.0.1:{self.address.port}",
        }
        self._processes[name] = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log
        )


def compare(path: Path, nodes: Sequence[SimNode]) -> tuple[int, int]:
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


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError as error:
        raise PeerUnreachableError("it does not listen") from error
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
