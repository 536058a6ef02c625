"""kill -9 and power cuts on a real node, hub and broker, each while something is in flight.

``python -m tests.chaos.sync_real --kills 300 --cuts 30`` needs root, mosquitto and loop mounts. The
victim is held still first and looked at: it dies only when a batch was unacknowledged, and where it
can be had, with a transaction open. What nodes and hub have in the end is compared with the journal
of who made the requests.
"""

import argparse
import contextlib
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from appliance.core.ids import NodeId
from appliance.errors import ApplianceError
from appliance.hub import identity as hub_identity
from appliance.hub import store
from appliance.hub.migrations import migrations
from appliance.kit.commit import GroupCommit
from appliance.kit.http import HttpClient
from appliance.node import identity as node_identity
from appliance.trust.repository import Repository
from appliance.wiring import places
from appliance.wiring.core import open_node
from tests.chaos.planted import planted
from tests.chaos.told import told
from tests.helpers.disks import Disk
from tests.helpers.feeder import Callers, Feeder
from tests.helpers.organisation import Organisation
from tests.helpers.players import Player, number, until, writer_of
from tests.helpers.spools import Journal, Request, read_traces, traces_folder
from witness.compare import compare

ORG, NODE = "acme", "box-1"
VICTIMS = ("node", "hub", "broker")
_MAY_WAIT = ("events", "metrics", "reported")
"""Streams that a node writes to as long as it runs: their newest may be left in its ledger."""

_NODE_DISK, _HUB_DISK = 420 << 20, 512 << 20
_BROKER_PORT, _HUB_PORT = 1883, 8443
_MARK = "SYNC_CHAOS_NAMESPACE"
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_FOR_A_TRANSACTION = 25
_MOST_LOOKS = 2000
_STRIKES_A_STICK = 20
_OLD_STICKS = 3
"""So many older sticks are taken in again after a newer one."""


class World:
    """A node, a hub and a broker as processes; the node's and the hub's disks are their own."""

    def __init__(self, scratch: Path, trace: list[Request], rng: random.Random) -> None:
        self.scratch, self.rng = scratch, rng
        self.struck: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self.transactions: Counter[str] = Counter()
        self.back_s: list[float] = []
        self.sticks: list[Path] = []
        self.carried = 0
        self.disks = {
            "node": Disk(scratch / "node.img", scratch / "node", _NODE_DISK),
            "hub": Disk(scratch / "hub.img", scratch / "hub", _HUB_DISK),
        }
        self.node_state, self.hub_state = scratch / "node" / "state", scratch / "hub" / "state"
        self.databases = {"node": self.node_state / "node.db", "hub": self.hub_state / "hub.db"}
        _make(scratch, self.node_state, self.hub_state)
        _settings(scratch, self.node_state, self.hub_state)
        self.players = _players(scratch, self.node_state, self.hub_state)
        self.journal = Journal(scratch / "journal.jsonl")
        spool = self.node_state / places.SPOOL
        spool.mkdir(exist_ok=True)
        self.feeder = Feeder(spool, NODE, trace, self.journal, per_sync=6)
        control = self.node_state / places.CONTROL_SOCKET
        client = HttpClient.over_unix(control, "the node", "see its log", 5)
        self._status = partial(client.call, "GET", "/v1/status")
        create = partial(client.call, "POST", "/v1/gateway/keys")
        self.callers = Callers(create, NODE, self.journal)
        self._log = (scratch / "strikes.jsonl").open("w")
        os.sync()  # what an operator set up long ago is on the disk

    def start(self) -> None:
        for player in self.players.values():
            player.start()
        self.feeder.start()
        self.callers.start()
        self.progress(0, "the first records")

    def committed(self) -> int:
        """Return how far the hub has the usage stream; -1 when it cannot say now."""
        return number(
            self.databases["hub"], "SELECT max(upto) FROM positions WHERE stream = 'usage'"
        )

    def progress(self, since: int, what: str) -> None:
        """Wait until the hub has committed more than it had."""
        assert self.feeder.failure is None, self.feeder.failure
        try:
            until(lambda: self.committed() > since, f"more at the hub after {what}")
        except AssertionError as error:
            tails = "\n".join(f"{p.name}: {p.tail()}" for p in self.players.values())
            raise AssertionError(f"{error}\n{tails}") from error

    def flight(self) -> dict[str, int]:
        """Return what is not acknowledged, and who has a transaction open."""
        count = partial(number, self.databases["node"])
        writers = {name: writer_of(path) for name, path in self.databases.items()}
        return {
            "batches": count("SELECT count(*) FROM batches"),
            "records": count("SELECT count(*) FROM outbox"),
            **{
                f"transaction of the {name}": int(pid == self.players[name].pid)
                for name, pid in writers.items()
            },
        }

    def strike(self, victim: str, *, cut: bool) -> None:
        """Kill a process, or cut the power of its disk, while something is in flight."""
        kind = f"power of the {victim} cut" if cut else f"{victim} killed"
        player, flight = self.players[victim], self._hold_in_flight(victim)
        before, began = max(self.committed(), 0), time.monotonic()
        if cut:
            self._cut(victim)
        else:
            player.kill()
        self._note(kind, victim, flight)
        player.start()
        self.progress(before, kind)
        self.back_s.append(time.monotonic() - began)

    def _cut(self, victim: str) -> None:
        """Cut the power of a disk, with all that its process and the feeder were about to write."""
        disk = self.disks[victim]
        with self.feeder.still():
            disk.cut_power()
            self.players[victim].kill()
            if victim == "node":
                self.feeder.give_up()
            disk.unmount()
            disk.mount()

    def _hold_in_flight(self, victim: str) -> dict[str, int]:
        """Hold the victim still at a moment when something is in flight; return what is."""
        player = self.players[victim]
        for look in range(_MOST_LOOKS):
            if not player.hold():
                raise AssertionError(f"{victim} ended by itself: {player.tail()}")
            flight = self.flight()
            transaction = flight.get(f"transaction of the {victim}", 0)
            if transaction or (look >= _FOR_A_TRANSACTION and flight["batches"] > 0):
                return flight
            player.go_on()
            time.sleep(self.rng.random() * 0.03)
        raise AssertionError(f"nothing was ever in flight when {victim} was looked at: {flight}")

    def _note(self, kind: str, victim: str, flight: dict[str, int]) -> None:
        transaction = flight.get(f"transaction of the {victim}", 0)
        self.struck[kind] += 1
        self.busy[kind] += flight["batches"] > 0 or bool(transaction)
        self.transactions[kind] += transaction
        at = datetime.datetime.now(datetime.UTC).isoformat()
        self._log.write(json.dumps({"at": at, "strike": kind, "in_flight": flight}) + "\n")
        self._log.flush()

    def carry(self) -> None:
        """Take a stick to the hub and back while the broker stands still, then older ones again.

        What it carried comes once more when the broker goes on: by both roads, and counts once.
        """
        until(self._node_answers, "the node's answer")
        before = self.committed()
        self.players["broker"].hold()
        until(lambda: self.flight()["batches"] > 0, "something to carry")
        stick = self.scratch / f"stick-{len(self.sticks)}"
        stick.mkdir()
        self._appliance("sync", "export", str(stick), state=self.node_state)
        self._appliance("hub", "sync", "import", str(stick), state=self.hub_state)
        self._appliance("hub", "sync", "export", str(stick), state=self.hub_state)
        self._appliance("sync", "import", str(stick), state=self.node_state)
        carried = self.committed() - before
        query = "SELECT acked_upto FROM streams WHERE stream = 'usage'"
        acked = number(self.databases["node"], query)
        assert carried > 0, "the stick brought nothing to the hub"
        assert acked > before, "the stick brought no acknowledgement home"
        for older in [stick, *self.sticks[: -_OLD_STICKS - 1 : -1]]:
            self._appliance("hub", "sync", "import", str(older), state=self.hub_state)
        self.players["broker"].go_on()
        self.sticks.append(stick)
        self.carried += carried
        self.progress(before + carried, "a stick")

    def _node_answers(self) -> bool:
        with contextlib.suppress(ApplianceError):
            return bool(self._status())
        return False

    def _appliance(self, *words: str, state: Path) -> None:
        command = [sys.executable, "-m", "appliance", *words, "--state-dir", str(state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"

    def settle(self) -> None:
        """Wait until the hub has all that must arrive, then end everybody."""
        self.feeder.finish()
        self.callers.finish()
        spool = self.node_state / places.SPOOL
        until(lambda: not list(spool.glob("usage-*")), "the end of the spool", 120)
        open_streams = "', '".join(_MAY_WAIT)
        query = f"SELECT sum(next_seq - 1 - acked_upto) FROM streams WHERE stream NOT IN ('{open_streams}')"  # noqa: E501, S608
        until(lambda: number(self.databases["node"], query) == 0, "all acknowledged", 120)
        for name in ("node", "hub", "broker"):
            self.players[name].end()

    def close(self) -> None:
        with self.feeder.still():
            self.feeder.give_up()
            for player in self.players.values():
                player.kill()
            self._log.close()
            for disk in self.disks.values():
                disk.unmount()


def _make(scratch: Path, node_state: Path, hub_state: Path) -> None:
    """Make keys, a hub that may direct, and a node that knows it."""
    keys = scratch / "organisation" / "keys"
    now = datetime.datetime.now(datetime.UTC)
    (scratch / "organisation").mkdir()
    repository = Repository.init_solo(keys, ORG, now)
    hub = hub_identity.create(hub_state, ORG)
    repository.name_director(hub.public())
    organisation = Organisation(scratch / "organisation", repository, hub.director, hub.sync)
    found = node_identity.create(node_state, NodeId(NODE), organisation.root)
    with open_node(node_state) as core:
        core.importer.run(organisation.bundle(), "a test")
    database = GroupCommit(hub_state / "hub.db", migrations)
    admit = partial(store.admit, node=NODE, key=found.key.public, at="long ago")
    database.submit(admit).result()
    database.close()


def _settings(scratch: Path, node_state: Path, hub_state: Path) -> None:
    broker = f"mqtt://127.0.0.1:{_BROKER_PORT}"
    (node_state / places.SETTINGS).write_text(
        "[node]\nheartbeat_s = 1.0\n"
        f'[sync]\nbroker = "{broker}"\nfirst_retry_s = 0.1\nmost_retry_s = 0.5\nresend_s = 0.5\n'
        "sample_s = 0.2\nmetrics_s = 0.5\n"
    )
    (hub_state / places.SETTINGS).write_text(
        f'[hub]\nhost = "127.0.0.1"\nport = {_HUB_PORT}\nbroker = "{broker}"\nheartbeat_s = 1.0\n'
    )
    path = scratch / "mosquitto.conf"
    path.write_text(f"listener {_BROKER_PORT} 127.0.0.1\nallow_anonymous true\n")
    path.chmod(0o644)


def _players(scratch: Path, node_state: Path, hub_state: Path) -> dict[str, Player]:
    program = [sys.executable, "-m", "appliance"]
    commands = {
        "broker": ["mosquitto", "-c", str(scratch / "mosquitto.conf")],
        "hub": [*program, "hub", "run", "--state-dir", str(hub_state)],
        "node": [*program, "node", "run", "--state-dir", str(node_state)],
    }
    (scratch / "log").mkdir()
    return {n: Player(n, c, scratch / "log" / f"{n}.log") for n, c in commands.items()}


def _strikes(options: argparse.Namespace, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Yield all strikes, each victim in its turn, and the cuts spread among them."""
    plan = [(VICTIMS[n % len(VICTIMS)], False) for n in range(options.kills)]
    cuts = [(("node", "hub")[n % 2], True) for n in range(options.cuts)]
    for cut in cuts:
        plan.insert(rng.randrange(len(plan) + 1), cut)
    yield from plan


def run(scratch: Path, trace: list[Request], options: argparse.Namespace) -> dict[str, Any]:
    """Strike, let all settle, compare; return what is to be told."""
    began, rng = time.monotonic(), random.Random(options.seed)  # noqa: S311 - it is to repeat
    with contextlib.ExitStack() as stack:
        world = World(scratch, trace, rng)
        stack.callback(world.close)
        world.start()
        for count, (victim, cut) in enumerate(_strikes(options, rng), start=1):
            world.strike(victim, cut=cut)
            if count % _STRIKES_A_STICK == 0:
                world.carry()
        world.settle()
        hub, journal = world.databases["hub"], scratch / "journal.jsonl"
        nodes = {NODE: world.databases["node"]}
        verdict = compare(hub, nodes, [journal], _MAY_WAIT)
        shown = planted(hub, nodes, journal, _MAY_WAIT, rng)
        if options.keep is not None:
            _keep(scratch, world, options.keep)
    back = sorted(world.back_s)
    return {
        "ok": not verdict.counts
        and world.struck == world.busy
        and set(shown.values()) == {"found"},
        "struck": dict(world.struck),
        "busy": dict(world.busy),
        "with a transaction open": dict(world.transactions),
        "requests made": world.feeder.made,
        "API keys made": world.callers.made,
        "sticks carried": len(world.sticks),
        "usage records that came by stick first": world.carried,
        "committed again after (median, worst)": f"{back[len(back) // 2]:.1f} s, {back[-1]:.1f} s",
        "planted in copies": shown,
        "wall_s": round(time.monotonic() - began, 1),
        "verdict": verdict.to_json(),
    }


def _keep(scratch: Path, world: World, folder: Path) -> None:
    """Copy out what a person may want to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*world.databases.values(), scratch / "journal.jsonl", scratch / "strikes.jsonl"):
        shutil.copy(path, folder)
    shutil.copytree(scratch / "log", folder / "log", dirs_exist_ok=True)


def _in_own_namespace(arguments: list[str]) -> None:
    """Go on where mounts go with us, and where nobody else can take a port while its owner is away.

    The ports lie below those that the system hands out to clients.
    """
    if os.environ.get(_MARK) is None:
        os.environ.update({_MARK: "yes", "PATH": _PATH})
        program = [sys.executable, "-m", "tests.chaos.sync_real", *arguments]
        os.execvp("unshare", ["unshare", "-m", "-n", *program])  # noqa: S606
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def missing() -> str:
    """Return what keeps this from running here; empty: nothing."""
    if os.geteuid() != 0:
        return "it needs root, for disks of its own"
    for program in ("mosquitto", "mkfs.ext4", "unshare", "ip"):
        if shutil.which(program, path=_PATH) is None:
            return f"{program} is not installed (scripts/system-packages would)"
    if traces_folder() is None:
        return "there are no traces; say TRACES=FOLDER"
    return ""


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="of all three together")
    parser.add_argument("--cuts", type=int, default=30, help="of both disks together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="copy databases, journal and logs to here")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, print a table, and end with 0 when nothing was found."""
    options, lacking = options_of(arguments), missing()
    if lacking:
        sys.stdout.write(f"skipped: {lacking}\n")
        return 0
    _in_own_namespace(arguments)
    folder = traces_folder()
    assert folder is not None
    with tempfile.TemporaryDirectory(prefix="sync-chaos-") as scratch:
        Path(scratch).chmod(0o711)
        found = run(Path(scratch), read_traces(folder), options)
    sys.stdout.write(told(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
