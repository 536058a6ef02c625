"""Engines as they really run: contained, limited, quiet about prompts."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core.state import Phase
from appliance.demo.story import DEPLOYMENT
from appliance.kit.http import HttpClient
from appliance.runtime import keeper as keeper_module
from appliance.runtime.cgroup import memory_group
from appliance.runtime.keeper import ProcessSettings
from appliance.runtime.process import ProcessDriver, end_all
from tests.conftest import need_root
from tests.contract.test_driver import gone, replica, until
from tests.e2e.conftest import Running

pytestmark = pytest.mark.integration
SECRET = "ZEBRA-4711-PROMPT"


def engine(running: Running) -> dict[str, object]:
    return next(e for e in running.stack.status()["engines"] if e["phase"] == "ready")


def test_an_engine_runs_as_its_own_user_without_a_network_or_a_disk(running: Running) -> None:
    need_root()
    found = engine(running)
    status = Path(f"/proc/{found['pid']}/status").read_text()
    uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
    assert uid != "0"
    assert "NoNewPrivs:\t1" in status
    mine, its = (
        Path("/proc/self/ns/net").readlink(),
        Path(f"/proc/{found['pid']}/ns/net").readlink(),
    )
    assert mine != its
    assert found["missing"] == ["system call filter (comes with provisioning)"]


def test_its_environment_holds_no_secret_of_ours(running: Running) -> None:
    environment = Path(f"/proc/{engine(running)['pid']}/environ").read_bytes()
    names = {entry.split(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
    assert names <= {"PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "LC_CTYPE"}


def test_no_prompt_is_in_any_file_of_the_node_or_the_hub(running: Running) -> None:
    ask(running.stack.gateway(running.key), SECRET)
    ask(running.stack.gateway(running.key), SECRET, max_tokens="many")
    time.sleep(1)
    folders = [running.stack.node_state, running.stack.hub_state, running.stack.scratch / "log"]
    for path in (p for folder in folders for p in folder.rglob("*") if p.is_file()):
        if path.name != "reserve" and path.stat().st_size < 50 << 20:
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("keeper", ["cgroup", "watchdog"])
def test_an_engine_beyond_its_memory_limit_is_ended_with_the_reason(
    keeper: str, demo_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keeper == "watchdog":
        patch = "from appliance.runtime import cgroup; cgroup.memory_group = lambda *_: None"
        (tmp_path / "sitecustomize.py").write_text(patch)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the engine's process has no group either
        monkeypatch.setattr(keeper_module, "memory_group", lambda *_: None)
    elif memory_group("appliance-test") is None:
        pytest.skip("no memory cgroup may be made here")
    greedy = replace(replica(context=4096), memory_limit_bytes=48 << 20)

    async def story() -> None:
        driver = ProcessDriver(tmp_path, lambda _: demo_weights, ProcessSettings(look_every_s=0.1))
        await driver.open(lambda: None)
        await driver.start(greedy)
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.BACKOFF)
        assert "48 MiB" in seen.message
        await driver.stop("notes-0")
        await gone(driver, "notes-0")
        await driver.close()

    try:
        asyncio.run(story())
    finally:
        end_all(tmp_path)


def test_a_stop_lets_a_request_that_runs_come_to_its_end(
    demo_weights: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o711)
    body = json.dumps({"prompt": "Once", "n_predict": 48, "ignore_eos": True, "stream": True})
    head = f"POST /completion HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(body)}\r\n"
    request = f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n{body}"

    async def story() -> None:
        driver = ProcessDriver(tmp_path, lambda _: demo_weights, ProcessSettings(threads=1))
        await driver.open(lambda: None)
        await driver.start(replica())
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        reader, writer = await asyncio.open_unix_connection(seen.endpoint)
        writer.write(request.encode())
        said = await reader.readuntil(b'"content"')
        await driver.stop("notes-0")
        said += await asyncio.wait_for(reader.read(), 30)
        writer.close()
        assert said.count(b'"content"') >= 48
        assert b'"stop":true' in said
        await gone(driver, "notes-0")
        await driver.close()

    try:
        asyncio.run(story())
    finally:
        end_all(tmp_path)


def ask(gateway: HttpClient, text: str, *, max_tokens: object = 8) -> None:
    body = {
        "model": DEPLOYMENT,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
    }
    try:
        answer = gateway.call("POST", "/v1/chat/completions", body)
    except Exception as error:
        if max_tokens == 8:
            raise
        assert SECRET not in str(error)  # noqa: PT017 - the engine must not quote a prompt either
    else:
        assert json.dumps(answer)
