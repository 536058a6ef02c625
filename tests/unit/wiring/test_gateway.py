"""A gateway in a pod starts with what a pod has, and is never open."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from appliance.core.routes import ApiKey, Route, RouteSnapshot
from appliance.errors import NotFoundError, UsageError
from appliance.node import identity
from appliance.settings import GatewaySettings, KubernetesSettings
from appliance.wiring import places
from appliance.wiring.gateway import run_gateway
from tests.helpers.waiting import until
from tests.helpers.web import Answer, ask

pytestmark = pytest.mark.slow
IN_POD = KubernetesSettings(kubeconfig="in-cluster", node="n1")
SNAPSHOT = RouteSnapshot((Route("notes", (), ()),), (ApiKey("k", "t", "0" * 64),), needs_key=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running(state: Path, cluster: KubernetesSettings, host: str) -> AsyncIterator[int]:
    log = logging.getLogger("appliance")
    level = log.level
    log.setLevel(logging.ERROR)
    port = free_port()
    task = asyncio.create_task(run_gateway(state, GatewaySettings(host=host, port=port), cluster))
    try:
        await until(lambda: task.done() or _answers(port), "a gateway")
        yield port
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        log.setLevel(level)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def get(port: int, path: str) -> Answer:
    return await ask(port, "GET", path)


def test_in_a_pod_it_starts_with_nothing_and_writes_nothing_beside_its_spool(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "spool").mkdir()

    async def story() -> None:
        async with running(tmp_path, IN_POD, "0.0.0.0") as port:
            statuses = [(await get(port, p)).status for p in ("/healthz", "/readyz", "/v1/models")]
            assert statuses == [200, 503, 503]
            (tmp_path / places.ROUTES).write_bytes(SNAPSHOT.dump())
            statuses = [(await get(port, p)).status for p in ("/healthz", "/readyz", "/v1/models")]
            assert statuses == [200, 200, 401]
            assert [p.name for p in (tmp_path / "run").iterdir()] == ["routes.json"]

    asyncio.run(story())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "spool"]


def test_two_of_them_run_side_by_side_while_a_new_one_takes_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            running(tmp_path, IN_POD, "0.0.0.0") as old,
            running(tmp_path, IN_POD, "0.0.0.0") as new,
        ):
            assert [(await get(p, "/healthz")).status for p in (old, new)] == [200, 200]

    asyncio.run(story())


def test_on_a_node_it_says_where_it_is_and_is_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "load", lambda _: None)

    async def story() -> None:
        async with running(tmp_path, KubernetesSettings(), "127.0.0.1") as port:
            told = json.loads((tmp_path / places.GATEWAY_ADDRESS).read_bytes())
            assert (told["host"], told["port"]) == ("127.0.0.1", port)
        assert not (tmp_path / places.GATEWAY_ADDRESS).exists()

    asyncio.run(story())


def test_outside_of_a_cluster_it_starts_for_others_only_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="no node"):
        asyncio.run(run_gateway(tmp_path, GatewaySettings()))
    monkeypatch.setattr(identity, "load", lambda _: None)
    with pytest.raises(UsageError, match="open to everybody"):
        asyncio.run(run_gateway(tmp_path, GatewaySettings(host="0.0.0.0")))


def test_without_a_cluster_nothing_of_kubernetes_is_loaded() -> None:
    code = (
        "import sys; import appliance.wiring.gateway; "
        "print([m for m in sys.modules if m.split('.')[:2] in (['kubernetes'], "
        "['appliance', 'kube'])])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
