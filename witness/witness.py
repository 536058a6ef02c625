"""A witness: judges the appliance from outside, with the standard library alone.

It shares no code with what it judges. It sends requests to the gateway, listens on the broker,
reads the hub's API and looks at processes in /proc, and then says whether all tell one story:

* the requests that were sent are exactly the usage records at the hub, each once;
* the weights that each engine has mapped are, by device and inode, blobs of the store, and each
  blob's bytes have the digest that names it;
* what the hub holds came through the broker, and the hub's last word on the broker agrees with it;
* no process of the appliance talked to anything but loopback.

Commands come on standard input, one a line; each is answered by one line of JSON:

  ask N [stream]   send N chat requests, one after the other
  sent ID          somebody else sent a request with this X-Request-Id
  verdict          wait until the hub has caught up, judge, and end with 0 or 1
"""

import argparse
import base64
import contextlib
import hashlib
import json
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
from pathlib import Path
from typing import Any, BinaryIO

LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
UNSET = ("00000000", "0" * 32)


class Broker(threading.Thread):
    """Listens on the broker: MQTT 3.1.1, QoS 1, and again at once when the connection breaks."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True, name="broker")
        self.address = (host, port)
        self.hashes: set[str] = set()
        self.retained_ack: dict[str, dict[str, Any]] = {}
        self.away: list[tuple[float, float]] = []
        self.connected = threading.Event()

    def run(self) -> None:
        left = 0.0  # what came before we listened was missed too
        while True:
            with contextlib.suppress(OSError, ValueError):
                self._listen_until_broken(left)
            if self.connected.is_set():
                left = time.time()
                self.connected.clear()
            time.sleep(0.02)

    def _listen_until_broken(self, left: float) -> None:
        with socket.create_connection(self.address, 5) as sock:
            self._subscribe(sock)
            self.away.append((left, time.time()))
            self.connected.set()
            self._listen(sock)

    def was_away(self, moment: float) -> bool:
        """Whether a message of this moment may have been missed."""
        still = [] if self.connected.is_set() else [(self.away[-1][1], time.time())]
        return any(a - 2 <= moment <= b + 1 for a, b in [*self.away, *still])

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
            if kind >> 4 == 3:
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


class NetworkWatch(threading.Thread):
    """Looks at the sockets of a process tree, again and again."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True, name="network")
        self.root = root
        self.looks = 0
        self.strangers: set[str] = set()

    def run(self) -> None:
        while True:
            for pid in tree(self.root):
                with contextlib.suppress(OSError):
                    self._look(pid)
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
        for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
            for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
                words = line.split()
                if words[9] in mine:
                    self._judge(pid, kind, words[1].split(":")[0], words[2].split(":")[0])

    def _judge(self, pid: int, kind: str, local: str, remote: str) -> None:
        outside = remote not in (*LOOPBACK, *UNSET) or (
            remote in UNSET and local not in LOOPBACK and kind.startswith("tcp")
        )
        if outside:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            self.strangers.add(f"{name} ({pid}) {kind} {local} -> {remote}")


class Witness:
    """Sends, collects and judges."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sent: list[str] = []
        self.statuses: Counter[str] = Counter()
        host, _, port = options.broker.rpartition(":")
        self.broker = Broker(host.strip("[]"), int(port))
        self.network = NetworkWatch(options.pid)
        self.broker.start()
        self.network.start()
        if not self.broker.connected.wait(10):
            sys.exit("witness: the broker does not answer")

    def ask(self, count: int, *, stream: bool) -> dict[str, Any]:
        """Send chat requests through the gateway, one after the other."""
        outcomes = [self._ask(stream=stream) for _ in range(count)]
        return {"asked": count, "outcomes": dict(Counter(outcomes))}

    def _ask(self, *, stream: bool) -> str:
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
                self.sent.append(name)
                text = answer.read().decode()
            outcome = "cut" if '"error"' in text else "ok"
        except urllib.error.HTTPError as error:
            self.sent.append(name)
            outcome = f"http {error.code}"
        except (OSError, ValueError) as error:
            if not isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                self.sent.append(name)
            outcome = f"broken: {type(error).__name__}"
        self.statuses[outcome] += 1
        return outcome

    def verdict(self) -> dict[str, Any]:
        """Judge everything seen so far."""
        findings = [
            *self._judge_usage(),
            *self._judge_weights(),
            *self._judge_broker(),
            *(f"not loopback: {found}" for found in sorted(self.network.strangers)),
        ]
        return {
            "ok": not findings,
            "findings": findings,
            "requests": len(self.sent),
            "outcomes": dict(self.statuses),
            "batches_seen": len(self.broker.hashes),
            "network_looks": self.network.looks,
        }

    def _judge_usage(self) -> list[str]:
        deadline = time.monotonic() + self.options.patience
        expected = Counter(self.sent)
        while True:
            records = self._hub_records()
            found = Counter(r["body"]["request_id"] for r in records)
            if found == expected or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        findings = []
        if lost := expected - found:
            findings.append(f"{lost.total()} requests have no usage record: {list(lost)[:3]}")
        if extra := found - expected:
            findings.append(f"{extra.total()} usage records too many: {list(extra)[:3]}")
        ids = Counter(r["body"]["id"] for r in records)
        findings += [f"usage record {name} stands {n} times" for name, n in ids.items() if n > 1]
        if [r["seq"] for r in records] != list(range(1, len(records) + 1)):
            findings.append("the numbers of the usage records have a gap")
        return findings

    def _judge_weights(self) -> list[str]:
        store = Path(self.options.state) / "store" / "blobs" / "sha256"
        blobs = {(p.stat().st_dev, p.stat().st_ino): p for p in store.iterdir()}
        engines = list((Path(self.options.state) / "run" / "e").glob("*/*.sock"))
        findings = [] if engines else ["no engine runs"]
        proven: set[Path] = set()
        for path in engines:
            pid = peer(path)
            mapped = {} if pid is None else mapped_weights(pid)
            if not mapped:
                findings.append(f"the engine at {path.parent.name} (pid {pid}) maps no weights")
            for where, key in mapped.items():
                blob = blobs.get(key)
                if blob is None:
                    findings.append(f"engine {pid} maps {where}, which is no blob of the store")
                elif blob not in proven:
                    proven.add(blob)
                    if digest_of(blob) != blob.name:
                        findings.append(f"blob {blob.name} holds other bytes than its name says")
        return findings

    def _judge_broker(self) -> list[str]:
        findings = []
        batches = self._hub(f"/api/v1/nodes/{self.options.node}/batches")["batches"]
        for batch in batches:
            at = time.mktime(time.strptime(batch["at"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
            if batch["hash"] not in self.broker.hashes and not self.broker.was_away(at):
                findings.append(f"batch {batch['first']} of {batch['stream']} never met the broker")
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
            page = self._hub(path)["records"]
            if not page:
                return records
            records += page

    def _hub(self, path: str) -> dict[str, Any]:
        deadline = time.monotonic() + self.options.patience
        while True:
            try:
                with urllib.request.urlopen(self.options.hub + path, timeout=10) as answer:
                    return dict(json.load(answer))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


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


def peer(path: Path) -> int | None:
    """Return the pid that listens on a Unix socket, by the kernel's word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return None
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0])


def mapped_weights(pid: int) -> dict[str, tuple[int, int]]:
    """Return the model files that a process has mapped: path, device and inode."""
    found = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5].startswith("/"):
            link = f"/proc/{pid}/map_files/{words[0]}"
            with contextlib.suppress(OSError):
                path = link if os.access(link, os.R_OK) else words[5]
                with Path(path).open("rb") as file:
                    if file.read(4) == b"GGUF":
                        stat = os.fstat(file.fileno())
                        found[words[5]] = (stat.st_dev, stat.st_ino)
    return found


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        command, *words = line.split()
        if command == "ask":
            answer = witness.ask(int(words[0]), stream="stream" in words)
        elif command == "sent":
            witness.sent.append(words[0])
            answer = {"noted": words[0]}
        else:
            answer = witness.verdict()
            print(json.dumps(answer), flush=True)
            return 0 if answer["ok"] else 1
        print(json.dumps(answer), flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
