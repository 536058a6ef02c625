"""A hub, a broker, a node and its gateway, wired to each other on loopback."""

import datetime
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.make import build as builder
from appliance.bundle.make.build import Built, Progress
from appliance.core.ids import NodeId
from appliance.demo import broker
from appliance.demo.supervisor import Supervisor
from appliance.errors import ApplianceError, PeerUnreachableError
from appliance.hub import identity as hub_identity
from appliance.hub.identity import HubIdentity
from appliance.kit.files import make_folder
from appliance.kit.http import HttpClient
from appliance.node import identity as node_identity
from appliance.runtime.process import end_all
from appliance.trust.repository import Repository
from appliance.wiring import places

NODE = NodeId("demo-node")
ORG = "demo"
_READY_S = 60.0
_LOG_LINES = 3


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    host: str
    broker: int
    hub: int
    gateway: int

    @classmethod
    def free(cls, host: str) -> "Addresses":
        """Return ports of a loopback address that nobody uses now."""
        return cls(host, *_free_ports(host, 3))

    def url(self, port: int, scheme: str = "http") -> str:
        """Return the URL of one of the ports."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}"


class Stack:
    """The processes of the demo, each in a subfolder of one scratch folder."""

    def __init__(self, scratch: Path, supervisor: Supervisor, addresses: Addresses) -> None:
        self.scratch = scratch
        self.at = addresses
        self.supervisor = supervisor
        self.node_state = scratch / "node"
        self.hub_state = scratch / "hub"
        self.keys = scratch / "keys"

    def prepare(self) -> HubIdentity:
        """Make the organisation's keys and the hub's, and name the hub as director."""
        now = datetime.datetime.now(datetime.UTC)
        repository = Repository.init_solo(self.keys, ORG, now)
        hub = hub_identity.create(self.hub_state, ORG)
        repository.name_director(hub.public())
        return hub

    def build(self, definition: Path, cache: Path, progress: Progress) -> Built:
        """Build the signed bundle."""
        now = datetime.datetime.now(datetime.UTC)
        found = builder.read_definition(definition)
        folder = self.scratch / "bundle"
        return builder.build(found, folder, Repository(self.keys), cache, now, progress)

    def start(self) -> None:
        """Start everything, and wait until it answers.

        Raises:
            NotFoundError: no broker is installed.
            PeerUnreachableError: something does not come up.
        """
        make_folder(self.scratch / "log")
        root = (self.keys / "metadata" / "1.root.json").read_bytes()
        node_identity.create(self.node_state, NODE, root)
        self._write_settings()
        program = [sys.executable, "-m", "appliance"]
        node = ["--state-dir", str(self.node_state)]
        start = self.supervisor.start
        start("broker", broker.command(self.scratch, self.at.host, self.at.broker))
        start("hub", [*program, "hub", "run", "--state-dir", str(self.hub_state)])
        start("node", [*program, "node", "run", *node])
        start("gateway", [*program, "gateway", "run", *node])
        self.wait("the broker", self._broker_answers)
        self.wait("the hub", lambda: bool(self.hub().call("GET", "/api/v1/nodes")))
        self.wait("the node", lambda: bool(self.status()))
        self.wait("the gateway", lambda: bool(self.gateway().call("GET", "/healthz")))

    def end(self) -> None:
        """End the engines; the supervisor ends the rest."""
        for name in ("gateway", "node"):
            try:
                self.supervisor.stop(name)
            except KeyError:
                continue
        end_all(self.node_state)

    def hub(self) -> HttpClient:
        """Return a client of the hub."""
        token = hub_identity.load(self.hub_state).token
        hint = f"see {self.scratch / 'log' / 'hub.log'}"
        return HttpClient.over_tcp(self.at.url(self.at.hub), "the hub", hint, token)

    def node(self) -> HttpClient:
        """Return a client of the node's controller."""
        path = self.node_state / places.CONTROL_SOCKET
        hint = f"see {self.scratch / 'log' / 'node.log'}"
        return HttpClient.over_unix(path, "the node", hint, 300)

    def gateway(self, key: str = "") -> HttpClient:
        """Return a client of the gateway."""
        hint = f"see {self.scratch / 'log' / 'gateway.log'}"
        return HttpClient.over_tcp(self.at.url(self.at.gateway), "the gateway", hint, key)

    def status(self) -> dict[str, Any]:
        """Return what the node says of itself."""
        return self.node().call("GET", "/v1/status")

    def import_bundle(self, folder: Path) -> dict[str, Any]:
        """Have the node import a bundle."""
        answers = list(self.node().objects("POST", "/v1/import", {"path": str(folder)}))
        return dict(answers[-1]["imported"])

    def admit(self) -> None:
        """Have the hub know the node."""
        public = node_identity.load(self.node_state).public()
        self.hub().call("PUT", f"/api/v1/nodes/{NODE}", {"key": public["key"]})

    def ask_through_hub(self, deployment: dict[str, Any]) -> int:
        """Ask the node, once it was heard, for a deployment; return the hub's generation."""
        self.wait("the node's first report", lambda: self.seen_by_hub()["reported"] is not None)
        body = {"documents": [deployment]}
        answer = self.hub().call("POST", f"/api/v1/nodes/{NODE}/documents", body)
        return int(answer["generation"])

    def seen_by_hub(self) -> dict[str, Any]:
        """Return what the hub knows of the node."""
        return self.hub().call("GET", f"/api/v1/nodes/{NODE}")

    def create_key(self, name: str) -> str:
        """Make an API key."""
        body = {"id": name, "tenant": name}
        return str(self.node().call("POST", "/v1/gateway/keys", body)["key"])

    def wait(self, what: str, done: Callable[[], bool], at_most_s: float = _READY_S) -> None:
        """Wait until ``done``; what cannot answer yet counts as no.

        Raises:
            PeerUnreachableError: it did not come in time.
        """
        deadline = time.monotonic() + at_most_s
        last = ""
        while time.monotonic() < deadline:
            try:
                if done():
                    return
            except ApplianceError as error:
                last = f": {error.what}"
            time.sleep(0.05)
        raise PeerUnreachableError(
            f"{what} is not there after {at_most_s:.0f} s{last}\n{self._last_lines()}"
        )

    def _last_lines(self) -> str:
        """Return the end of each log: the logs themselves go with the scratch folder."""
        lines = []
        for path in sorted((self.scratch / "log").glob("*.log")):
            newest = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            lines += [f"  {path.stem}: {line}" for line in newest]
        return "\n".join(lines)

    def all_acknowledged(self) -> bool:
        """Whether the hub has committed every record that the node ever wrote."""
        streams = self.status()["streams"]
        return all(s["written"] == s["acknowledged"] for s in streams.values())

    def is_ready(self, deployment: str, replicas: int) -> bool:
        """Whether a deployment serves with this many replicas."""
        found = next((d for d in self.status()["deployments"] if d["name"] == deployment), None)
        return found is not None and found["ready"] == found["replicas"] == replicas

    def _broker_answers(self) -> bool:
        try:
            socket.create_connection((self.at.host, self.at.broker), 1).close()
        except OSError as error:
            raise PeerUnreachableError(str(error)) from error
        return True

    def _write_settings(self) -> None:
        url = self.at.url(self.at.broker, "mqtt")
        (self.node_state / places.SETTINGS).write_text(
            "[node]\nheartbeat_s = 2.0\n"
            "[engine]\nthreads = 1\n"  # threads of one engine wait by spinning; cores may be few
            f'[gateway]\nhost = "{self.at.host}"\nport = {self.at.gateway}\n'
            f'[sync]\nbroker = "{url}"\nmost_retry_s = 1.0\nresend_s = 1.0\n'
        )
        (self.hub_state / places.SETTINGS).write_text(
            f'[hub]\nhost = "{self.at.host}"\nport = {self.at.hub}\n'
            f'broker = "{url}"\nheartbeat_s = 2.0\n'
        )


def _free_ports(host: str, count: int) -> list[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets = [socket.socket(family, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind((host, 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
