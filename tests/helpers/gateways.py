"""A gateway on loopback with engines on sockets, all in one event loop."""

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from appliance.core import wire
from appliance.core.demand import Mark
from appliance.core.routes import ApiKey, Endpoint, Route, RouteSnapshot
from appliance.gateway.app import Gateway, Reach
from appliance.gateway.balance import Balancer
from appliance.gateway.demand import DemandMarks
from appliance.gateway.engines import Engines
from appliance.gateway.routes import RouteFile
from appliance.gateway.spool import UsageSpool
from appliance.kit.clock import SystemClock
from appliance.kit.files import replace_quickly
from appliance.settings import GatewaySettings
from tests.fakes.engine import FakeEngine, Play
from tests.helpers.waiting import until
from tests.helpers.web import Answer, Call, ask, serving

CHAT = "/v1/chat/completions"


class Front:
    """A gateway that is being served."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool_folder = folder / "spool"
        self.spool_folder.mkdir()
        self.demand_folder = folder / "demand"
        self.demand_folder.mkdir()
        self.spool = UsageSpool(self.spool_folder)
        self.port = 0
        self.engines: dict[str, FakeEngine] = {}
        self.engines_of: Engines

    @property
    def engine(self) -> FakeEngine:
        """The only engine."""
        (found,) = self.engines.values()
        return found

    def endpoints(self, *names: str) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(name, str(self.folder / name)) for name in names)

    def route(self, *routes: Route, keys: tuple[ApiKey, ...] = (), needs_key: bool = False) -> None:
        """Replace the snapshot, as the controller does."""
        snapshot = RouteSnapshot(routes, keys, needs_key or bool(keys))
        replace_quickly(self.folder / "routes.json", snapshot.dump())

    async def ask(
        self,
        body: bytes | Mapping[str, Any] = b'{"model": "notes"}',
        *,
        method: str = "POST",
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        data = body if isinstance(body, bytes) else dict(body)
        return await ask(self.port, method, path, data, headers)

    async def call(self, body: bytes = b'{"model": "notes", "stream": true}') -> Call:
        return await Call.open(self.port, "POST", CHAT, body)

    def marks(self) -> dict[str, Mark]:
        """Return what the controller is told of demand, by model."""
        found = [Mark.load(path.read_bytes()) for path in self.demand_folder.glob("[!.]*")]
        return {mark.model: mark for mark in found}

    def facts(self) -> list[tuple[str, dict[str, Any]]]:
        """Return phase and record of every line in the spool, in order."""
        lines = [
            wire.loads(line, what="a usage fact")
            for path in sorted(self.spool_folder.glob("usage-*.jsonl"))
            for line in path.read_bytes().splitlines()
        ]
        return [(line["phase"], line["record"]) for line in lines]

    async def ends(self, count: int = 1) -> list[dict[str, Any]]:
        """Return how each request ended, once ``count`` have; each began once and ended once."""

        def over() -> bool:
            phases = Counter(phase for phase, _ in self.facts())
            return phases["begin"] == phases["end"] >= count

        await until(over, f"the end of {count} requests")
        ends = [record for phase, record in self.facts() if phase == "end"]
        begun = [record["id"] for phase, record in self.facts() if phase == "begin"]
        assert sorted(begun) == sorted(record["id"] for record in ends)
        assert len(set(begun)) == len(begun)
        return ends


@asynccontextmanager
async def gateway(
    plays: Mapping[str, tuple[Play, ...]] | None = None,
    *,
    reach: Reach = Reach.THIS_MACHINE,
    node: str = "",
    **settings: Any,
) -> AsyncIterator[Front]:
    """Serve a gateway; the model ``notes`` is served by an engine for each name in ``plays``."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        front = Front(folder)
        stack.callback(front.spool.close)
        for name, script in (plays or {}).items():
            engine = FakeEngine(folder / name, *script)
            front.engines[name] = await stack.enter_async_context(engine)
        front.route(Route("notes", ("chat", "completions"), front.endpoints(*front.engines)))
        source = RouteFile(folder / "routes.json")
        chosen = GatewaySettings(**{"hold_s": 5.0, **settings})
        demand = DemandMarks(front.demand_folder, SystemClock())
        front.engines_of = Engines(source, Balancer(node), demand, chosen)
        app = Gateway(
            source,
            front.spool,
            front.engines_of,
            SystemClock(),
            reach=reach,
            most_body_bytes=chosen.most_body_bytes,
        )
        front.port = await stack.enter_async_context(serving(app))
        yield front
