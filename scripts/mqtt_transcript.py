"""Write the transcripts of ``docs/how-to/mqtt.md``: what a broker carries, and what it refuses.

A real mosquitto with the settings in ``examples/brokers``, a real hub and a node's real link talk
over TLS. Each shown command ran; long lines are cut.
"""

import asyncio
import datetime
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from appliance.core import reading
from appliance.demo.story import deployment
from appliance.hub import store
from appliance.hub.identity import HubIdentity
from appliance.hub.migrations import migrations
from appliance.hub.service import HubService
from appliance.kit.clock import SystemClock, rfc3339
from appliance.kit.commit import GroupCommit
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.settings import SyncSettings
from appliance.sync.link import Endpoints, Link
from appliance.sync.mqtt import BrokerAddress, Tls
from appliance.trust.envelope import Addressee, Slot, seal
from appliance.trust.keys import SigningKey

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "mqtt.md"
_WIDTH = 108
_STATE = "ea1/press-1/up/state"
_ALL = {_STATE, *(f"ea1/press-1/{end}" for end in ("up/reported", "up/s/audit"))}
_ALL |= {f"ea1/press-1/{end}" for end in ("dn/desired", "dn/ack")}
_DAY = datetime.timedelta(days=1)

_REFUSED = (
    # the hub says something to press-2, which listens to everything, and hears that alone
    "as _hub mosquitto_pub -r -q 1 -t ea1/press-2/dn/desired -m 'for press-2'",
    "as press-2 mosquitto_sub -v -W 2 -t '#' -t 'ea1/+/up/#' -t 'ea1/press-1/dn/desired'",
    # it writes as another node, as the hub, and to where nobody may
    "as press-2 mosquitto_pub -q 1 -t ea1/press-1/up/reported -m lie",
    "as press-2 mosquitto_pub -q 1 -t ea1/press-1/dn/desired -m lie",
    "as press-2 mosquitto_pub -q 1 -t ea1/press-2/dn/desired -m lie",
    "as press-2 mosquitto_pub -q 1 -t elsewhere -m lie",
    # its own topic; then under another's client id: the broker takes the certificate's name
    "as press-2 mosquitto_pub -q 1 -t ea1/press-2/up/state -m truth -i press-1",
    # without a certificate, and with an older TLS
    "mosquitto_pub -h localhost -p 8883 --cafile hub-ca.pem -q 1 -t ea1/press-2/up/state -m lie",
    "openssl s_client -brief -tls1_2 -CAfile hub-ca.pem -connect localhost:8883",
)


def main() -> int:
    """Write both transcripts; return 1 when the page has no place for them."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers import brokers  # noqa: PLC0415 - they are not installed

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = brokers.Authority(folder)
        for user in ("_hub", "_watch", "press-1", "press-2"):
            authority.tls(user)
        broker = brokers.fleet(folder, authority)
        acl = re.sub("^#(user|topic)", r"\1", (folder / "acl").read_text(), flags=re.MULTILINE)
        (folder / "acl").write_text(acl)
        broker.kill()
        broker.start()
        try:
            shell = _Shell(folder, broker.port)
            address = BrokerAddress("localhost", broker.port, "mqtts")
            said = asyncio.run(_talk(folder, address, authority.tls, shell))
            refused = "".join(shell.run(line) for line in _REFUSED)
        finally:
            broker.kill()
    text = PAGE.read_text()
    for mark, shown in (("carries", said), ("refuses", refused)):
        block = rf"(<!-- {mark}: .*? -->\n```console\n).*?(```\n)"
        place = re.search(block, text, re.DOTALL)
        if place is None:
            print(f"{PAGE} has no place for what the broker {mark}")
            return 1
        text = text[: place.end(1)] + shown + text[place.start(2) :]
    PAGE.write_text(text)
    return 0


class _Shell:
    """Runs a line as the page shows it; ``as NODE`` adds the node's certificate."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._port = port

    def command(self, line: str) -> list[str]:
        """Return what a line of the page stands for."""
        words = shlex.split(line)
        if words[0] == "as":
            who, words = words[1], words[2:]
            files = ["--cafile", "hub-ca.pem", "--cert", f"{who}.pem", "--key", f"{who}-key.pem"]
            words += ["-V", "mqttv5", "-h", "localhost", "-p", str(self._port), *files]
        return [word.replace("8883", str(self._port)) for word in words]

    def run(self, line: str) -> str:
        """Return a line and what it printed, each line cut where the page ends."""
        done = subprocess.run(
            self.command(line),
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = [f"$ {line}", *(_cut(found) for found in done.stdout.splitlines())]
        if done.returncode:
            lines.append(f"(exit status {done.returncode})")
        return "\n".join(lines) + "\n"


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 2]} …"


async def _talk(
    folder: Path, address: BrokerAddress, tls: Callable[[str], Tls], shell: _Shell
) -> str:
    """Have a hub and a node talk, and return what ``mosquitto_sub`` sees of it."""
    watch = await _Watch.start(shell)
    clock, key = SystemClock(), SigningKey.create(folder / "node.pem")
    director, sync = (SigningKey.create(folder / f"{name}.pem") for name in ("director", "sync"))
    ledger, db = Ledger(folder / "node.db"), GroupCommit(folder / "hub.db", migrations)
    at = rfc3339(clock.utc())
    db.submit(partial(store.admit, node="press-1", key=key.public, at=at)).result()
    me = Addressee("acme", "press-1", key.public, ledger.epoch)
    wanted = reading.from_wire(deployment(replicas=1), "the example")
    db.submit(lambda found: store.put_documents(found, "press-1", [wanted])).result()
    ledger.note(Fact(Stream.AUDIT, "node-started", at, {"version": "0.1.0"})).result()
    identity = HubIdentity("acme", 1, director, sync, "token")
    hub = HubService(identity, db, replace(address, tls=lambda: tls("_hub")), clock)

    async def report() -> bytes:
        body = {"report": time.time_ns() >> 20, "applied": {"generation": None}, "deployments": []}
        return seal(Slot.REPORTED, me, body, key, issued=clock.utc(), lifetime=_DAY)

    files = tls("press-1")
    endpoints = Endpoints({}, report, lambda: 0, tls=lambda: files)
    settings = SyncSettings(broker=f"mqtts://{address.host}:{address.port}")
    link = Link(ledger, endpoints, clock, settings, heartbeat_s=30.0)
    running = [asyncio.create_task(hub.run()), asyncio.create_task(link.run(me, key))]
    await watch.until(lambda topics: topics.keys() >= _ALL)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await watch.until(lambda topics: topics[_STATE] > 1)
    ledger.close()
    db.close()
    return await watch.end()


class _Watch:
    """``mosquitto_sub``, for as long as there is something to see."""

    def __init__(self, process: asyncio.subprocess.Process, line: str) -> None:
        self._process = process
        self._lines = [f"$ {line}"]
        self._topics: Counter[str] = Counter()

    @classmethod
    async def start(cls, shell: _Shell) -> "_Watch":
        line = "as _watch mosquitto_sub -v -t 'ea1/#'"
        process = await asyncio.create_subprocess_exec(
            *shell.command(line), cwd=shell.folder, stdout=asyncio.subprocess.PIPE, limit=1 << 20
        )
        await asyncio.sleep(1)  # it says nothing when it is ready
        return cls(process, line)

    async def until(self, done: Callable[[Counter[str]], bool]) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            while not done(self._topics):
                line = (await self._process.stdout.readline()).decode()
                self._lines.append(_cut(line.rstrip()))
                self._topics[line.split()[0]] += 1

    async def end(self) -> str:
        self._process.terminate()
        await self._process.communicate()
        return "\n".join(self._lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
