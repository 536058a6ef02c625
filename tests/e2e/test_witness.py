"""The witness agrees with what is true, and with nothing else."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from appliance.demo.stack import NODE
from appliance.demo.story import WitnessProcess
from appliance.hub import store
from appliance.hub.migrations import migrations
from appliance.kit.commit import GroupCommit
from appliance.runtime.health import is_ready
from appliance.runtime.profile import Probe
from appliance.sync.batch import Batch
from tests.conftest import need_root
from tests.e2e.conftest import Running, running_stack

pytestmark = pytest.mark.integration


@contextmanager
def judging(found: Running) -> Iterator[WitnessProcess]:
    process = found.witness(patience_s=3)
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def fresh() -> Iterator[Running]:
    need_root()  # to see which files another user's process has mapped
    with running_stack() as found:
        yield found


def findings(process: WitnessProcess) -> str:
    return " | ".join(process.command("verdict")["findings"])


def test_it_agrees_when_all_goes_through(fresh: Running) -> None:
    with judging(fresh) as process:
        process.command("ask 3 stream")
        process.command("ask 2")
        verdict = process.command("verdict")
    assert verdict["ok"], verdict["findings"]
    assert verdict["requests"] == 5
    assert verdict["network_looks"] > 0


def test_requests_past_the_gateway_are_noticed(fresh: Running) -> None:
    """A proxy of one's own that asks the engine and writes no usage record."""
    (engine,) = (fresh.stack.node_state / "run" / "e").glob("*/e.sock")

    class Bypass(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as upstream:
                upstream.connect(str(engine))
                head = f"POST {self.path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n"
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                upstream.sendall(head.encode() + body)
                while data := upstream.recv(65536):
                    self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((fresh.stack.at.host, 0), Bypass)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    real = fresh.stack.at
    fresh.stack.at = replace(real, gateway=server.server_port)
    try:
        with judging(fresh) as process:
            process.command("ask 1")
            assert "have no usage record" in findings(process)
    finally:
        fresh.stack.at = real
        server.shutdown()
        server.server_close()


def test_weights_that_no_bundle_brought_are_noticed(
    fresh: Running, demo_weights: Path, tmp_path: Path
) -> None:
    """An engine beside the appliance that opens a file of its own."""
    stranger = tmp_path / "model.gguf"
    stranger.write_bytes(demo_weights.read_bytes())
    folder = fresh.stack.node_state / "run" / "e" / "stranger"
    folder.mkdir()
    code = (
        "import sys; from appliance.runtime.workers.llama_cpp import prepare; "
        "prepare(sys.argv[1:])()"
    )
    arguments = ["--model", str(stranger), "--host", "e.sock", "--alias", "x", "--ctx-size", "256",
                 "--parallel", "1", "--threads", "1", "--no-warmup"]  # fmt: skip
    engine = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder)
    try:
        probe = Probe("/health", 200, 60)
        fresh.stack.wait("the stranger", lambda: _ready(folder / "e.sock", probe))
        with judging(fresh) as process:
            process.command("ask 1")
            assert "which is no blob of the store" in findings(process)
    finally:
        engine.kill()
        engine.wait()


def test_records_past_the_broker_are_noticed(fresh: Running) -> None:
    """A batch written straight into the hub's database."""
    fresh.stack.wait("the hub", fresh.stack.all_acknowledged)
    with judging(fresh) as process:
        process.command("ask 1")
        fresh.stack.wait("the hub", fresh.stack.all_acknowledged)
        fresh.supervisor.stop("hub")
        db = GroupCommit(fresh.stack.hub_state / "hub.db", migrations)
        last = next(p for p in db.read(lambda d: store.positions(d, NODE)) if p.stream == "events")
        record = {"at": "2026-12-01T00:00:00.000Z", "kind": "invented", "body": {}}
        batch = Batch("events", last.epoch, last.upto + 1, last.hash, "f" * 64, (record,))
        db.submit(lambda d: store.ingest(d, NODE, batch, "2027-01-01T00:00:00.000Z")).result()
        db.close()
        fresh.supervisor.resume("hub")
        fresh.stack.wait("the hub", lambda: bool(fresh.stack.seen_by_hub()))
        assert "never met the broker" in findings(process)


def test_a_connection_to_elsewhere_is_noticed(fresh: Running) -> None:
    """A process of the tree that talks to an address that is not loopback."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 53))  # sends nothing
    except OSError as error:
        pytest.skip(f"this machine has no route out: {error}")
    code = (
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.connect(('192.0.2.1', 53)); time.sleep(60)"
    )
    talker = subprocess.Popen([sys.executable, "-c", code])
    try:
        with judging(fresh) as process:
            process.command("ask 1")
            assert "not loopback" in findings(process)
    finally:
        talker.kill()
        talker.wait()


def _ready(socket_path: Path, probe: Probe) -> bool:
    return asyncio.run(is_ready(socket_path, probe))
