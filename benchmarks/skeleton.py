"""The skeleton: what it costs to have the appliance between a caller and an engine."""

import asyncio
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.cli.bundle import cache_folder
from appliance.demo.stack import Addresses, Stack
from appliance.demo.story import DEPLOYMENT, deployment
from appliance.demo.supervisor import Supervisor
from appliance.hardware.probe import machine
from appliance.kit.clock import SystemClock
from appliance.node.board import Board
from appliance.node.controller import Controller, Surroundings
from appliance.node.loops import MachineWatch
from appliance.node.rounds import Rounds
from appliance.runtime.keeper import ProcessSettings
from appliance.runtime.process import ProcessDriver
from appliance.wiring.core import open_node
from benchmarks.measure import Row, cpu_s, disk_bytes, limit, pss_bytes, row, wall_s

ROOT = Path(__file__).parent.parent
_ROUNDS = 40
_IDLE_S = 30.0


def run() -> list[Row]:
    """Measure everything; takes some two minutes."""
    with _stack() as (stack, key):
        rows = [_first_token(stack, key), *_idle(stack)]
        stack.end()
        rows.append(_reconcile(stack))
    return [*rows, _help(), _installed(), _imported()]


@contextmanager
def _stack() -> Iterator[tuple[Stack, str]]:
    scratch = Path(tempfile.mkdtemp(prefix="appliance-bench-"))
    (scratch / "log").mkdir()
    try:
        with Supervisor(scratch / "log") as supervisor:
            stack = Stack(scratch, supervisor, Addresses.free("127.0.0.1"))
            try:
                stack.prepare()
                definition = ROOT / "bundles" / "demo.yaml"
                built = stack.build(definition, cache_folder(None), lambda *_: None)
                stack.start()
                stack.import_bundle(built.folder)
                stack.admit()
                body = {"documents": [deployment(replicas=1)]}
                stack.node().call("POST", "/v1/apply", body)
                stack.wait("the deployment", lambda: stack.is_ready(DEPLOYMENT, 1))
                yield stack, stack.create_key("bench")
            finally:
                stack.end()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _first_token(stack: Stack, key: str) -> Row:
    """From request to first streamed token: through the gateway and straight, in turn."""
    (engine,) = (stack.node_state / "run" / "e").glob("*/e.sock")
    through, straight = [], []
    for number in range(_ROUNDS + 2):
        gateway = http.client.HTTPConnection(stack.at.host, stack.at.gateway)
        a = _time_first_token(gateway, key, number)
        bare = http.client.HTTPConnection("engine")
        bare.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bare.sock.connect(str(engine))
        b = _time_first_token(bare, key, number)
        if number >= 2:
            through.append(a)
            straight.append(b)
    value, reference = statistics.median(through) * 1000, statistics.median(straight) * 1000
    return row("first token, gateway", value, "ms", ("bare engine", reference), 1.1)


def _time_first_token(connection: http.client.HTTPConnection, key: str, number: int) -> float:
    body = {
        "model": DEPLOYMENT,
        "messages": [{"role": "user", "content": f"{number}: name a colour of the rainbow."}],
        "max_tokens": 4,
        "stream": True,
        "cache_prompt": False,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    first = 0.0
    for line in answer:
        if not first and line.startswith(b"data: {") and b'"content":"' in line:
            first = time.perf_counter() - began
    connection.close()
    if not first:
        raise RuntimeError("no token came")
    return first


def _idle(stack: Stack) -> list[Row]:
    """Memory and processor time of controller and gateway when nobody asks for anything."""
    pids = [stack.supervisor.pid(name) for name in ("node", "gateway")]
    time.sleep(3)
    before, began = sum(map(cpu_s, pids)), time.monotonic()
    time.sleep(_IDLE_S)
    used, elapsed = sum(map(cpu_s, pids)) - before, time.monotonic() - began
    memory = sum(map(pss_bytes, pids)) / 2**20
    return [
        limit("controller + gateway idle, PSS", memory, "MiB", 100),
        limit("controller + gateway idle, processor", 100 * used / elapsed, "% of a core", 1),
    ]


def _reconcile(stack: Stack) -> Row:
    """A pass of the controller with a real engine and nothing to do."""
    with open_node(stack.node_state) as core:
        times = asyncio.run(_passes(core.state, core))
    return limit("reconcile, nothing to do", statistics.median(times) * 1000, "ms", 5)


async def _passes(state: Path, core) -> list[float]:  # type: ignore[no-untyped-def]
    driver = ProcessDriver(state, lambda r: core.store.weights(r.variant), ProcessSettings())
    await driver.open(lambda: None)
    watch = MachineWatch(machine)
    board = Board(core.ledger, SystemClock(), state / "run" / "routes.json")
    around = Surroundings(watch, core.trust.listed)
    controller = Controller(core.ledger, Rounds(driver, slots=2), around, board, SystemClock())
    try:
        while not all(s.is_ready for s in board.world.statuses) or not board.version:
            await controller.reconcile()
            await asyncio.sleep(0.1)
        times = []
        for _ in range(200):
            began = time.perf_counter()
            await controller.reconcile()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0)
        return times
    finally:
        await driver.close()


def _help() -> Row:
    program = str(Path(sys.executable).parent / "appliance")
    value = wall_s([program, "--help"], 15) * 1000
    bare = wall_s([sys.executable, "-c", "pass"], 15) * 1000
    print(f"python itself starts and ends in {bare:.0f} ms")
    return limit("appliance --help", value, "ms", 200)


def _installed() -> Row:
    """What ``pip install .`` puts on disk, from the hashed lock, compiled files included."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        lock = ROOT / "requirements" / "base.lock"
        pip = [sys.executable, "-m", "pip", "--python", f"{folder}/bin/python", "install"]
        quiet = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *quiet, "--require-hashes", "-r", str(lock)], check=True)
        subprocess.run([*pip, *quiet, "--no-deps", str(ROOT)], check=True)
        value = disk_bytes(Path(folder)) / 2**20
    return limit("pip install .", value, "MiB", 100)


def _imported() -> Row:
    """How many modules of the heavy libraries ``import appliance`` loads."""
    code = "import sys, appliance; print(len({'kubernetes', 'tuf'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    count = int(done.stdout)
    return Row("import appliance", count, "heavy modules", "none", 0, 0.0, "0", count == 0)
