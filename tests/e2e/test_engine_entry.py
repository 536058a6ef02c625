"""The engine image's entry point, as a process: what it does when it is told to end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.integration
ENTRY = ROOT / "images" / "engine-llama-cpp" / "llama_server.py"


class Engine:
    """One process, on a port of its own."""

    def __init__(self, weights: Path, drain_s: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        arguments = (
            f"--model {weights} --host 127.0.0.1 --port {self.port} --alias small --ctx-size 4096"
            " --parallel 1 --threads 1 --metrics --offline --no-warmup"
        )
        self.process = subprocess.Popen(
            [sys.executable, str(ENTRY), *arguments.split()],
            env={**os.environ, "PYTHONPATH": str(ROOT), "EDGE_DRAIN_S": str(drain_s)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
            finally:
                connection.close()
        raise AssertionError("the engine did not become ready")

    def wait_until_it_listens_to_signals(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
            if blocked & (1 << (signal.SIGTERM - 1)):
                return
            time.sleep(0.01)
        raise AssertionError("it does not listen")

    @contextmanager
    def stream(self, tokens: int) -> Iterator[http.client.HTTPResponse]:
        """Ask for a text, and give the answer once its first line has come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = {"prompt": "Once", "n_predict": tokens, "ignore_eos": True, "stream": True}
        connection.request("POST", "/completion", json.dumps(body))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data:")
        try:
            yield answer
        finally:
            answer.close()
            connection.close()

    def end(self) -> float:
        """Tell it to end, and return how long that took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        return time.monotonic() - begun


@pytest.fixture
def engine(request: pytest.FixtureRequest, demo_weights: Path) -> Iterator[Engine]:
    found = Engine(demo_weights, request.param)
    yield found
    found.process.kill()
    found.process.wait()


@pytest.mark.parametrize("engine", [30], indirect=True)
def test_a_request_that_runs_is_answered_to_its_end(engine: Engine) -> None:
    engine.wait_until_ready()
    with engine.stream(64) as answer:
        engine.process.send_signal(signal.SIGTERM)
        last = [line for line in answer if line.startswith(b"data:")][-1]
    assert json.loads(last[5:])["stop"] is True
    assert engine.process.wait(10) == 0


@pytest.mark.parametrize("engine", [0.5], indirect=True)
def test_a_request_has_no_longer_than_it_may(engine: Engine) -> None:
    engine.wait_until_ready()
    with engine.stream(3000):
        assert engine.end() < 5


@pytest.mark.parametrize("engine", [30], indirect=True)
def test_an_idle_engine_ends_at_once(engine: Engine) -> None:
    engine.wait_until_ready()
    assert engine.end() < 1


@pytest.mark.parametrize("engine", [30], indirect=True)
def test_one_that_still_loads_ends_at_once(engine: Engine) -> None:
    engine.wait_until_it_listens_to_signals()
    assert engine.end() < 2
