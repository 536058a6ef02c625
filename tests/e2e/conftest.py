"""One real stack for many tests: mosquitto, hub, node, gateway, and the real model."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.cli.bundle import cache_folder
from appliance.demo.stack import Addresses, Stack
from appliance.demo.story import DEPLOYMENT, WitnessProcess, deployment
from appliance.demo.supervisor import Supervisor
from tests.conftest import DEMO_BUNDLE, ROOT, need_tool

WITNESS = ROOT / "witness" / "witness.py"


@dataclass(frozen=True)
class Running:
    """A stack that serves the demo's deployment, asked for through the hub."""

    stack: Stack
    supervisor: Supervisor
    key: str

    @property
    def base_url(self) -> str:
        return f"{self.stack.at.url(self.stack.at.gateway)}/v1"

    def witness(self, *, patience_s: int = 60) -> WitnessProcess:
        process = WitnessProcess(WITNESS, os.getpid(), patience_s=patience_s)
        process.start(self.stack, self.key)
        return process


@contextmanager
def running_stack(host: str = "127.0.0.1", *, replicas: int = 1) -> Iterator[Running]:
    """A stack of its own, for tests that break it."""
    need_tool("mosquitto")
    scratch = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    scratch.chmod(0o711)
    (scratch / "log").mkdir()
    try:
        with Supervisor(scratch / "log", alone=False) as supervisor:
            stack = Stack(scratch, supervisor, Addresses.free(host))
            try:
                stack.prepare()
                built = stack.build(DEMO_BUNDLE, cache_folder(None), lambda *_: None)
                stack.start()
                stack.import_bundle(built.folder)
                stack.admit()
                stack.ask_through_hub(deployment(replicas=replicas))
                stack.wait("the deployment", lambda: stack.is_ready(DEPLOYMENT, replicas))
                yield Running(stack, supervisor, stack.create_key("test"))
            finally:
                stack.end()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="package")
def running() -> Iterator[Running]:
    with running_stack() as found:
        yield found
