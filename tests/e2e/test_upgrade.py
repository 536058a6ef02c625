"""Controllers replaced while an engine serves: one that is fit, and every kind that is not.

Requests run throughout, through gateway and engine; not one may fail, and the engine stays the same
process.
"""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance import __version__
from appliance.bundle.make import build as builder
from appliance.bundle.make import locking
from appliance.cli.bundle import cache_folder
from appliance.core.ids import Digest, NodeId, digest
from appliance.demo.stack import Addresses
from appliance.demo.story import DEPLOYMENT, deployment
from appliance.demo.supervisor import Supervisor
from appliance.errors import ApplianceError
from appliance.kit.http import HttpClient
from appliance.kit.proc import ProcessId, identify
from appliance.node import identity as node_identity
from appliance.runtime.process import end_all
from appliance.software import shelf as shelf_module
from appliance.software.shelf import Shelf, Staged
from appliance.software.switch import Intent, Switch, ask
from appliance.trust.repository import Repository
from appliance.wiring import places
from tests.conftest import DEMO_BUNDLE
from tests.helpers import controllers
from tests.helpers.controllers import Changes
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.integration

GOOD, NAME = "7.0.0", "appliance"
RUN_NODE = "    if settings.sync.broker:"
MOODS: dict[str, Changes] = {
    "7.1.0": {"wiring/node.py": (RUN_NODE, "    raise SystemExit(3)\n    if 0:")},
    "7.2.0": {"wiring/node.py": (RUN_NODE, "    __import__('time').sleep(999)\n    if 0:")},
    "7.3.0": {"wiring/node.py": ('"version": __version__', '"version": "6.6.6"')},
    "7.4.0": {"runtime/record.py": ("if is_locked(path) and (found", "if not path and (found")},
    "7.5.0": {"node/controller.py": ("        state = self._ledger", "        raise TypeError")},
}
"""Exits at start; hangs; calls itself otherwise; takes over no engine; never ends a pass."""

NEW_SCHEMA = """

@migrations()
def m900_new(db: Database) -> None:
    db.table("new").create({"a": str}, pk="a", strict=True)
"""


@dataclass
class Traffic:
    """Requests one after the other, by a client that never tries twice."""

    ask: Callable[[], object]
    answered: int = 0
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        ending = threading.Event()

        def run() -> None:
            while not ending.is_set():
                try:
                    self.ask()
                    self.answered += 1
                except ApplianceError as error:
                    self.failed.append(error.what)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()


class Box:
    """A node under its supervisor, with a gateway, and one real engine."""

    def __init__(self, scratch: Path, children: Supervisor) -> None:
        self.scratch = scratch
        self.children = children
        self.state = scratch / "node"
        self.shelf = Shelf(self.state)
        self.keys = scratch / "keys"
        self.at = Addresses.free("127.0.0.1")
        self.manifests: dict[str, Digest] = {}

    def start(self) -> None:
        Repository.init_solo(self.keys, "acme", _now())
        root = (self.keys / "metadata" / "1.root.json").read_bytes()
        node_identity.create(self.state, NodeId("box-1"), root)
        (self.state / places.SETTINGS).write_text(
            f"[engine]\nthreads = 1\n[gateway]\nport = {self.at.gateway}\n"
            "[upgrade]\ngate_s = 15.0\nhold_s = 1.0\nstop_s = 10.0\n"
        )
        arguments = ["--state-dir", str(self.state)]
        program = [sys.executable, "-m", "appliance"]
        self.children.start("node", [*program, "node", "supervise", *arguments])
        self.children.start("gateway", [*program, "gateway", "run", *arguments])
        self.wait("the node", lambda: bool(self.status()))

    def bring(self, versions: dict[str, list[Path]]) -> None:
        """Build a bundle of the demo's model and of controllers from these wheels; import it."""
        definition = yaml.safe_load(DEMO_BUNDLE.read_text())
        definition["spec"]["files"] = [
            {"kind": "controller", "name": NAME, "version": version, "licence": "Apache-2.0",
             "files": [{"source": {"file": str(wheel)}} for wheel in wheels]}
            for version, wheels in versions.items()
        ]  # fmt: skip
        path = self.scratch / "controllers.yaml"
        path.write_text(yaml.safe_dump(definition))
        read, cache = builder.read_definition(path), cache_folder(None)
        locking.lock(read, cache)
        folder = self.scratch / "bundle"
        built = builder.build(read, folder, Repository(self.keys), cache, _now(), lambda *_: None)
        (targets,) = (folder / "tuf").glob("*.targets.json")
        signed = json.loads(targets.read_bytes())["signed"]["targets"]
        for version in versions:
            self.manifests[version] = digest("sha256:" + signed[_path(version)]["hashes"]["sha256"])
        *_, last = self.node().objects("POST", "/v1/import", {"path": str(built.folder)})
        assert set(map(_path, versions)) <= set(last["imported"]["others"])

    def serve(self) -> None:
        self.node().call("POST", "/v1/apply", {"documents": [deployment(replicas=1)]})
        self.wait("the engine", lambda: self.engine() is not None)
        key = self.node().call("POST", "/v1/gateway/keys", {"id": "t", "tenant": "t"})["key"]
        url = self.at.url(self.at.gateway)
        self.gateway = HttpClient.over_tcp(url, "the gateway", "", key)
        self.wait("an answer", lambda: bool(self.ask()))

    def ask(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": DEPLOYMENT, "messages": messages, "max_tokens": 4}
        return self.gateway.call("POST", "/v1/chat/completions", body)

    def node(self) -> HttpClient:
        return HttpClient.over_unix(self.state / places.CONTROL_SOCKET, "the node", "", 60)

    def status(self) -> dict[str, Any]:
        return self.node().call("GET", "/v1/status")

    def software(self) -> dict[str, Any]:
        return self.node().call("GET", "/v1/software")

    def engine(self) -> ProcessId | None:
        found = (e for e in self.status()["engines"] if e["phase"] == "ready")
        pid = next((e["pid"] for e in found), None)
        return None if pid is None else identify(pid)

    def audit(self) -> list[dict[str, Any]]:
        """Return how switches ended, as the hub will hear it."""
        done = self.command("status")
        assert done.returncode == 0, done.stderr
        code = (
            "import sqlite3, sys, json\n"
            "db = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
            "for row in db.execute(\"SELECT record FROM outbox WHERE stream = 'audit'"
            ' ORDER BY seq"): print(row[0])'
        )
        out = subprocess.check_output([sys.executable, "-c", code, self.state / "node.db"])
        records = [json.loads(line) for line in out.splitlines()]
        return [r for r in records if r["kind"].startswith("upgrade")]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``appliance upgrade`` with these words."""
        command = [sys.executable, "-m", "appliance", "upgrade", *words]
        arguments = ["--state-dir", str(self.state), "--json"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        wait_until(done, what, at_most_s=60)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    scratch = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    scratch.chmod(0o711)
    (scratch / "log").mkdir()
    made = tmp_path_factory.mktemp("wheels")
    wheels = [
        *controllers.others(made / "others"),
        controllers.project_wheel(made / "good", GOOD, _with_another_step()),
    ]
    try:
        with Supervisor(scratch / "log", alone=False) as children:
            box = Box(scratch, children)
            try:
                box.start()
                box.bring(dict.fromkeys(MOODS, wheels[-1:]) | {GOOD: wheels})
                done = box.command("stage", GOOD)
                assert done.returncode == 0, done.stderr
                for version, changes in MOODS.items():
                    staged = Staged(version, _path(version), box.manifests[version])
                    controllers.stage_beside(box.shelf, GOOD, staged, changes)
                box.serve()
                yield box
            finally:
                for name in ("gateway", "node"):
                    children.stop(name)
                end_all(box.state)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def spared(box: Box) -> Iterator[Box]:
    """The box, with requests under way; in the end none failed, by the same engine."""
    before, traffic = box.engine(), Traffic(box.ask)
    assert before is not None
    with traffic.running():
        yield box
        box.wait("the engine to be seen", lambda: box.engine() is not None)
        asked = traffic.answered
        box.wait("more answers", lambda: traffic.answered > asked)
    assert traffic.failed == []
    assert box.engine() == before


WHY = {
    "7.1.0": "it ended with status 3",
    "7.2.0": "it does not answer, after 15 s",
    "7.3.0": "it calls itself 6.6.6, not 7.3.0",
    "7.4.0": "was not taken over",
    "7.5.0": "it has not looked at the world yet, after 15 s",
}


@pytest.mark.parametrize("version", MOODS)
def test_a_controller_that_is_not_fit_gives_way_to_the_old_one(spared: Box, version: str) -> None:
    box = spared
    told = len(box.audit())
    done = box.command("switch", version)
    assert done.returncode == 1
    assert f"{version} was tried and is not used" in done.stderr
    assert WHY[version] in done.stderr
    box.wait("the old one", lambda: box.status()["version"] == __version__)
    assert box.software()["current"] == "installed"
    box.wait("the record", lambda: len(box.audit()) > told)
    (record,) = box.audit()[told:]
    assert record["kind"] == "upgrade-failed"
    assert record["body"]["wanted"] == version
    assert WHY[version] in record["body"]["why"]
    assert (box.shelf.folder / "node.db.before").stat().st_mode & 0o777 == 0o600


def test_one_that_is_fit_stays_and_the_way_back_is_open(spared: Box) -> None:
    box = spared
    told = len(box.audit())
    done = box.command("switch", GOOD)
    assert done.returncode == 0, done.stderr
    assert box.status()["version"] == GOOD
    assert (box.shelf.folder / "current").resolve() == box.shelf.place(GOOD)
    assert "m900_new" in _steps(box.state)
    box.wait("the sweep", lambda: [s.version for s in box.shelf.versions()] == [GOOD])
    done = box.command("switch", GOOD)
    assert done.returncode == 2
    assert "runs already" in done.stderr
    done = box.command("back")
    assert done.returncode == 0, done.stderr
    assert box.status()["version"] == __version__  # on the newer schema
    assert not (box.shelf.folder / "current").exists()
    box.wait("the records", lambda: len(box.audit()) > told + 1)
    assert [(r["kind"], r["body"]["wanted"]) for r in box.audit()[told:]] == [
        ("upgraded", GOOD),
        ("upgraded", "installed"),
    ]


def test_what_is_no_longer_listed_is_not_switched_to(box: Box) -> None:
    staged = Staged("7.9.0", _path("7.9.0"), Digest("sha256:" + "0" * 64))
    controllers.stage_beside(box.shelf, GOOD, staged, {})
    done = box.command("switch", "7.9.0")
    assert done.returncode == 22
    assert box.command("switch", "8.0.0").returncode == 9
    assert box.software()["current"] == "installed"


def test_a_supervisor_that_dies_in_a_try_leaves_the_old_one(spared: Box) -> None:
    box, version = spared, "7.2.1"
    staged = Staged(version, _path(version), Digest("sha256:" + "1" * 64))
    controllers.stage_beside(box.shelf, GOOD, staged, MOODS["7.2.0"])
    box.shelf.change(lambda found: _asked(found, version))
    box.wait("the try", lambda: (n := box.shelf.read().next) is not None and n.tried)
    box.wait("the old one's end", lambda: not _answers(box))
    os.kill(box.children.pid("node"), signal.SIGKILL)
    box.wait("the tried one's end", lambda: not shelf_module._is_used(box.shelf.place(version)))
    box.wait("the old one", lambda: _answers(box) and box.status()["version"] == __version__)
    last = box.shelf.read().last
    assert last is not None
    assert "went down during the try" in last.why


def test_an_engine_that_a_staged_controller_starts_is_of_its_release(box: Box) -> None:
    before = box.engine()
    assert box.command("switch", GOOD).returncode == 0
    box.node().call("POST", "/v1/apply", {"documents": [deployment(replicas=0)]})
    box.wait("its end", lambda: before is not None and not before.is_alive())
    box.node().call("POST", "/v1/apply", {"documents": [deployment(replicas=1)]})
    box.wait("another", lambda: box.engine() is not None)
    engine = box.engine()
    assert engine is not None
    assert str(box.shelf.place(GOOD)) in Path(f"/proc/{engine.pid}/maps").read_text()
    assert box.command("back").returncode == 0
    assert box.engine() == engine


def _with_another_step() -> Changes:
    """A release with a newer schema than ours."""
    name = "ledger/migrations.py"
    text = (controllers.PACKAGE / name).read_text()
    return {name: (text, text + NEW_SCHEMA)}


def _asked(found: Switch, version: str) -> Switch:
    return ask(found, Intent(version, "test", "now"))


def _answers(box: Box) -> bool:
    try:
        return bool(box.status())
    except ApplianceError:
        return False


def _steps(state: Path) -> list[str]:
    code = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
        "print(*[r[0] for r in db.execute('SELECT name FROM _sqlite_migrations')])"
    )
    out = subprocess.check_output([sys.executable, "-c", code, state / "node.db"], text=True)
    return out.split()


def _path(version: str) -> str:
    return f"files/controller/{NAME}/{version}"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
