"""A witness: judges the appliance from outside, with the standard library alone.

It shares no code with what it judges. It sends requests to the gateway, listens on the broker,
reads the hub's API and looks at processes in /proc, and then says whether all tell one story:

* the requests that were sent ended well, and are exactly the usage records at the hub, each once;
* the gateway is led to the engines of the node and to no others; the weights that each has mapped
  are, by device and inode, a blob of the store, nearly all of it; a signed list leads to that blob,
  and its bytes have the digest that names it;
* what the hub holds came through the broker, and the hub's last word on the broker agrees with it;
* no process of the appliance has a socket that could talk to anything but loopback.

Commands come on standard input, one a line; each is answered by one line of JSON:

  bundle FOLDER    engines may run what this bundle's signed targets list, and nothing else
  ask N [stream]   send N chat requests, one after the other
  sent ID          somebody else sent a request with this X-Request-Id
  verdict [cuts]   wait until the hub has caught up, judge, and end with 0 or 1;
                   with "cuts", requests were cut on purpose and may have ended badly
"""

import argparse
import base64
import contextlib
import hashlib
import http.client
import json
import math
import os
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
UNSET = ("00000000", "0" * 32)
TABLES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6")
ON_ITS_WAY_S = 1.0
"""The longest time from the broker to the hub's database."""

MAPPED = 0.9
"""The part of a blob that an engine has mapped at least: llama.cpp lets go of the head again."""


class Broker(threading.Thread):
    """Listens on the broker: MQTT 3.1.1, QoS 1, and again at once when the connection breaks."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True, name="broker")
        self.address = (host, port)
        self.hashes: set[str] = set()
        self.retained_ack: dict[str, dict[str, Any]] = {}
        self.left = -math.inf  # what came before we listened was missed too
        self.away: list[tuple[float, float]] = []
        self.connected = threading.Event()

    def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                self._listen_until_broken()
            if self.connected.is_set():
                self.left = time.monotonic()
                self.connected.clear()
            time.sleep(0.02)

    def _listen_until_broken(self) -> None:
        with socket.create_connection(self.address, 5) as sock:
            self._subscribe(sock)
            self._listen(sock)

    def was_away(self, begin: float, end: float) -> bool:
        """Whether we may have missed a message that the hub took in between these moments."""
        still = [] if self.connected.is_set() else [(self.left, math.inf)]
        return any(
            a - ON_ITS_WAY_S <= end and begin < b + ON_ITS_WAY_S for a, b in [*self.away, *still]
        )

    def _subscribe(self, sock: socket.socket) -> None:
        name = f"witness-{uuid.uuid4().hex[:8]}".encode()
        connect = b"\x00\x04MQTT\x04\x02\x00\x1e" + struct.pack("!H", len(name)) + name
        sock.sendall(_packet(0x10, connect))
        topic = b"ea1/#"
        sock.sendall(_packet(0x82, b"\x00\x01" + struct.pack("!H", len(topic)) + topic + b"\x01"))

    def _listen(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        reader = sock.makefile("rb")
        while True:
            try:
                kind, body = _read_packet(reader)
            except TimeoutError:
                sock.sendall(_packet(0xC0, b""))
                reader = sock.makefile("rb")
                continue
            if kind >> 4 == 9:  # from now on nothing is missed
                self.away.append((self.left, time.monotonic()))
                self.connected.set()
            elif kind >> 4 == 3:
                self._message(sock, kind, body)

    def _message(self, sock: socket.socket, kind: int, body: bytes) -> None:
        (length,) = struct.unpack("!H", body[:2])
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        if kind & 0x06:
            sock.sendall(_packet(0x40, rest[:2]))
            rest = rest[2:]
        if "/up/s/" in topic:
            payload = base64.b64decode(json.loads(rest)["payload"])
            self.hashes.add(hashlib.sha256(payload).hexdigest())
        elif topic.endswith("/dn/ack"):
            payload = json.loads(base64.b64decode(json.loads(rest)["payload"]))
            self.retained_ack[topic.split("/")[1]] = payload["streams"]


class HubWatch(threading.Thread):
    """Looks which batches the hub holds, so that a clock of our own says when each came."""

    def __init__(self, batches: Callable[[], list[dict[str, Any]]]) -> None:
        super().__init__(daemon=True, name="hub")
        self.came: dict[str, tuple[float, float]] = {}
        self._batches = batches
        self._last = -math.inf
        self._one = threading.Lock()

    def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                self.look()
            time.sleep(0.2)

    def look(self) -> list[dict[str, Any]]:
        """Return the batches; note of each new one that it came between the last look and now."""
        with self._one:
            asked = time.monotonic()
            found = self._batches()
            for batch in found:
                self.came.setdefault(batch["hash"], (self._last, time.monotonic()))
            self._last = asked
            return found


class NetworkWatch(threading.Thread):
    """Looks at the sockets of a process tree, again and again."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True, name="network")
        self.root = root
        self.looks = 0
        self.strangers: set[str] = set()
        self._loose: set[str] = set()
        self._loose_before: set[str] = set()

    def run(self) -> None:
        while True:
            for pid in tree(self.root):
                with contextlib.suppress(OSError):
                    self._look(pid)
            self._loose_before, self._loose = self._loose, set()
            self.looks += 1
            time.sleep(0.03)

    def _look(self, pid: int) -> None:
        mine = set()
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = str(Path(entry.path).readlink())
                if target.startswith("socket:["):
                    mine.add(target[8:-1])
        if not mine:
            return
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        for kind in TABLES:
            for words in _table(pid, kind):
                local, remote = words[1].split(":")[0], words[2].split(":")[0]
                if words[9] in mine and self._is_outside(kind, local, remote, words[9]):
                    self.strangers.add(f"{name} ({pid}) {kind} {local} -> {remote}")
        for words in _table(pid, "packet"):
            if words[-1] in mine:
                self.strangers.add(f"{name} ({pid}) packet {words[3]}")

    def _is_outside(self, kind: str, local: str, remote: str, inode: str) -> bool:
        """Whether a socket has a peer elsewhere, or none and may get one from anywhere."""
        if remote not in UNSET:
            return remote not in LOOPBACK
        if local in LOOPBACK:
            return False
        if not kind.startswith("udp"):
            return True
        self._loose.add(inode)  # every UDP socket is like this for a moment before it is connected
        return inode in self._loose_before


class Witness:
    """Sends, collects and judges."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.state = Path(options.state)
        self.bundles: list[Path] = []
        self.sent: list[str] = []
        self.unanswered: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.strange_engines: set[str] = set()
        host, _, port = options.broker.rpartition(":")
        self.broker = Broker(host.strip("[]"), int(port))
        self.network = NetworkWatch(options.pid)
        self.hub = HubWatch(self._batches)
        self.broker.start()
        self.network.start()
        if not self.broker.connected.wait(10):
            sys.exit("witness: the broker does not answer")
        time.sleep(ON_ITS_WAY_S)
        self._patiently(self.hub.look)  # these are excused, and of what comes later nothing is
        self.hub.start()

    def ask(self, count: int, *, stream: bool) -> dict[str, Any]:
        """Send chat requests through the gateway, one after the other."""
        requests = []
        for _ in range(count):
            self.strange_engines.update(self._strange_engines())
            told: dict[str, Any] = {"began": time.monotonic(), "answered": None}
            told["outcome"] = self._ask(told, stream=stream)
            requests.append({**told, "ended": time.monotonic()})
            self.statuses[told["outcome"]] += 1
        return {"asked": count, "requests": requests}

    def _ask(self, told: dict[str, Any], *, stream: bool) -> str:
        name = f"w-{uuid.uuid4().hex}"
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": "Count to ten."}],
            "max_tokens": 16,
            "stream": stream,
        }
        request = urllib.request.Request(
            f"{self.options.gateway}/v1/chat/completions",
            json.dumps(body).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {self.options.key}",
                "X-Request-Id": name,
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                told["answered"] = time.monotonic()
                return "ok" if is_whole(answer.read().decode(), stream=stream) else "cut"
        except urllib.error.HTTPError as error:
            told["answered"] = time.monotonic()
            return f"http {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            if isinstance(why, ConnectionRefusedError):
                name = ""  # nobody was asked
                time.sleep(0.1)
            return f"broken: {type(why).__name__}"
        finally:
            if name:
                (self.sent if told["answered"] else self.unanswered).append(name)

    def verdict(self, *, cuts: bool) -> dict[str, Any]:
        """Judge everything seen so far."""
        findings = [
            *self._judge_usage(cuts=cuts),
            *([] if cuts else self._judge_outcomes()),
            *self._judge_engines(),
            *self._judge_broker(),
            *(f"not loopback: {found}" for found in sorted(self.network.strangers)),
        ]
        return {
            "ok": not findings,
            "findings": findings,
            "requests": len(self.sent) + len(self.unanswered),
            "outcomes": dict(self.statuses),
            "batches_seen": len(self.broker.hashes),
            "network_looks": self.network.looks,
        }

    def _judge_outcomes(self) -> list[str]:
        bad = {outcome: count for outcome, count in self.statuses.items() if outcome != "ok"}
        return [f"requests ended badly: {bad}"] if bad else []

    def _judge_usage(self, *, cuts: bool) -> list[str]:
        """With cuts, a request that got no answer has one record or none; all others have one."""
        deadline = time.monotonic() + self.options.patience
        required = Counter(self.sent if cuts else [*self.sent, *self.unanswered])
        allowed = Counter([*self.sent, *self.unanswered])
        while True:
            records = self._hub_records()
            found = Counter(r["body"]["request_id"] for r in records)
            lost, extra = required - found, found - allowed
            if not (lost or extra) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        findings = []
        if lost:
            findings.append(f"{lost.total()} requests have no usage record: {list(lost)[:3]}")
        if extra:
            findings.append(f"{extra.total()} usage records too many: {list(extra)[:3]}")
        ids = Counter(r["body"]["id"] for r in records)
        findings += [f"usage record {name} stands {n} times" for name, n in ids.items() if n > 1]
        if [r["seq"] for r in records] != list(range(1, len(records) + 1)):
            findings.append("the numbers of the usage records have a gap")
        return findings

    def _judge_engines(self) -> list[str]:
        deadline = time.monotonic() + self.options.patience
        while (own := self._own()) != routed(self.state) and time.monotonic() < deadline:
            time.sleep(0.2)
        findings = [] if own else ["no engine runs"]
        findings += [f"no route leads to the engine at {p}" for p in own - routed(self.state)]
        for path in own | routed(self.state):
            pid = peer(path)
            if not mapped_weights(pid):
                findings.append(f"the engine at {path} (pid {pid}) maps no weights")
        findings += sorted(self.strange_engines | set(self._strange_engines(own)))
        store = self.state / "store" / "blobs" / "sha256"
        for name in sorted(self._listed() & {p.name for p in store.iterdir()}):
            if digest_of(store / name) != name:
                findings.append(f"blob {name} holds other bytes than its name says")
        return findings

    def _own(self) -> set[Path]:
        return {p.resolve() for p in (self.state / "run" / "e").glob("*/*.sock")}

    def _strange_engines(self, more: Iterable[Path] = ()) -> Iterator[str]:
        """Say what is wrong with the engines that may be asked now; one that is down is not."""
        with contextlib.suppress(FileNotFoundError):  # no route yet
            for path in routed(self.state).union(more):
                if not path.is_relative_to((self.state / "run" / "e").resolve()):
                    yield f"routes.json names {path}, which is no engine's socket"
                yield from self._strange_weights(peer(path))

    def _strange_weights(self, pid: int | None) -> Iterator[str]:
        store = self.state / "store" / "blobs" / "sha256"
        blobs = {(p.stat().st_dev, p.stat().st_ino): p for p in store.iterdir()}
        for key, mapped in mapped_weights(pid).items():
            blob = blobs.get(key)
            if blob is None:
                yield f"engine {pid} maps {mapped.path}, which is no blob of the store"
            elif blob.name not in self._listed():
                yield f"engine {pid} maps blob {blob.name}, which no signed list leads to"
            elif (covered := mapped.covered() / blob.stat().st_size) < MAPPED:
                yield f"engine {pid} maps only {covered:.1%} of blob {blob.name}"

    def _listed(self) -> set[str]:
        """Return the layers that the store's index and, if we know any, a bundle's list lead to."""
        index = json.loads((self.state / "store" / "index.json").read_text())["manifests"]
        found = layers(self.state / "store", [entry["digest"][7:] for entry in index])
        if self.bundles:
            found &= set().union(*(layers(b, signed_manifests(b)) for b in self.bundles))
        return found

    def _judge_broker(self) -> list[str]:
        findings = []
        batches = self._patiently(self.hub.look)
        for batch in batches:
            seen = batch["hash"] in self.broker.hashes
            if not seen and not self.broker.was_away(*self.hub.came[batch["hash"]]):
                findings.append(f"batch {batch['first']} of {batch['stream']} never met the broker")
        if len({batch["hash"] for batch in batches}) < len(batches):
            findings.append("two batches at the hub have the same hash")
        position = {}
        for batch in batches:
            position[batch["stream"]] = (batch["first"] + batch["count"] - 1, batch["hash"])
        if not self.broker.hashes:
            findings.append("no batch was seen on the broker")
        deadline = time.monotonic() + self.options.patience
        while (acked := self._acked()) != position and time.monotonic() < deadline:
            time.sleep(0.1)
        if acked != position:
            findings.append(f"the hub holds {position}, its word on the broker is {acked}")
        return findings

    def _acked(self) -> dict[str, Any]:
        streams = self.broker.retained_ack.get(self.options.node, {})
        return {name: (found["upto"], found["hash"]) for name, found in streams.items()}

    def _hub_records(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        while True:
            after = records[-1]["seq"] if records else 0
            path = f"/api/v1/nodes/{self.options.node}/records?stream=usage&after={after}"
            page = self._patiently(partial(self._hub_list, path, "records"))
            if not page:
                return records
            records += page

    def _batches(self) -> list[dict[str, Any]]:
        return self._hub_list(f"/api/v1/nodes/{self.options.node}/batches", "batches")

    def _hub_list(self, path: str, name: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(self.options.hub + path, timeout=10) as answer:
            return list(json.load(answer)[name])

    def _patiently(self, ask: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self.options.patience
        while True:
            try:
                return ask()
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def is_whole(text: str, *, stream: bool) -> bool:
    """Whether an answer is a completion that came to its end."""
    if stream:
        return '"error"' not in text and text.rstrip().endswith("data: [DONE]")
    found = json.loads(text)
    return isinstance(found, dict) and bool(found.get("choices"))


def tree(root: int) -> list[int]:
    """Return a process and all below it, this one left out."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        if pid == os.getpid():
            continue
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += [int(child) for child in task.read_text().split()]
    return found


def routed(state: Path) -> set[Path]:
    """Return the sockets that the gateway is led to."""
    routes = json.loads((state / "run" / "routes.json").read_text())["routes"]
    return {Path(e["socket"]).resolve() for route in routes for e in route["endpoints"]}


def layers(layout: Path, manifests: Iterable[str]) -> set[str]:
    """Return the layers of those of an OCI layout's manifests that have the digest they claim."""
    found = set()
    for name in manifests:
        path = layout / "blobs" / "sha256" / name
        if path.exists() and digest_of(path) == name:
            found |= {layer["digest"][7:] for layer in json.loads(path.read_text())["layers"]}
    return found


def signed_manifests(bundle: Path) -> list[str]:
    """Return the digests of the manifests that a bundle's newest list of targets names."""
    lists = (bundle / "tuf").glob("*.targets.json")
    newest = max(lists, key=lambda path: int(path.name.split(".")[0]))
    targets = json.loads(newest.read_text())["signed"]["targets"]
    return [t["hashes"]["sha256"] for path, t in targets.items() if path.startswith("models/")]


def peer(path: Path) -> int | None:
    """Return the pid that listens on a Unix socket, by the kernel's word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect(str(path))
        except OSError:
            return None
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0])


class Mapped:
    """What a process has mapped of one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.parts: list[tuple[int, int]] = []

    def covered(self) -> int:
        """Return how many of its bytes; what is mapped twice counts once."""
        total = upto = 0
        for begin, end in sorted(self.parts):
            total += max(0, end - max(begin, upto))
            upto = max(upto, end)
        return total


def mapped_weights(pid: int | None) -> dict[tuple[int, int], Mapped]:
    """Return the model files that a process has mapped, by device and inode; none if it is gone."""
    found: dict[tuple[int, int], Mapped] = {}
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        lines = []
    for line in lines:
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5].startswith("/"):
            link = f"/proc/{pid}/map_files/{words[0]}"
            with contextlib.suppress(OSError):
                path = link if os.access(link, os.R_OK) else words[5]
                with Path(path).open("rb") as file:
                    if file.read(4) != b"GGUF":
                        continue
                    stat = os.fstat(file.fileno())
                begin, end = (int(address, 16) for address in words[0].split("-"))
                offset = int(words[2], 16)
                mapped = found.setdefault((stat.st_dev, stat.st_ino), Mapped(words[5]))
                mapped.parts.append((offset, min(offset + end - begin, stat.st_size)))
    return found


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table(pid: int, kind: str) -> list[list[str]]:
    """Return a table of sockets in a process's network namespace; this kernel may not have it."""
    try:
        text = Path(f"/proc/{pid}/net/{kind}").read_text()
    except FileNotFoundError:
        return []
    return [line.split() for line in text.splitlines()[1:]]


def _packet(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), b""
    while True:
        length, low = length >> 7, length & 0x7F
        encoded += bytes([low | (0x80 if length else 0)])
        if not length:
            return bytes([kind]) + encoded + body


def _read_packet(reader: BinaryIO) -> tuple[int, bytes]:
    kind = reader.read(1)
    if not kind:
        raise OSError("closed")
    length = shift = 0
    while True:
        (byte,) = reader.read(1)
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return kind[0], reader.read(length)


def main() -> int:
    """Obey commands until the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("gateway", "key", "model", "hub", "broker", "node", "state"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds for the hub to catch up"
    )
    parser.add_argument("--pid", type=int, required=True, help="the root of the process tree")
    witness = Witness(parser.parse_args())
    for line in sys.stdin:
        command, *words = line.split(maxsplit=1)
        rest = words[0].strip() if words else ""
        answer = obey(witness, command, rest)
        print(json.dumps(answer), flush=True)
        if "ok" in answer:
            return 0 if answer["ok"] else 1
    return 1


def obey(witness: Witness, command: str, rest: str) -> dict[str, Any]:
    """Obey one command and return the answer."""
    if command == "ask":
        count, *how = rest.split()
        return witness.ask(int(count), stream="stream" in how)
    if command == "sent":
        witness.sent.append(rest)
        return {"noted": rest}
    if command == "bundle":
        witness.bundles.append(Path(rest))
        return {"may run": signed_manifests(Path(rest))}
    return witness.verdict(cuts=rest == "cuts")


if __name__ == "__main__":
    sys.exit(main())
