"""The profile ``llama-cpp`` runs a llama-server binary as well as the Python package.

``LLAMA_SERVER`` names a real one. Without it a STAND-IN is used: an executable with llama-server's
flags around the same library, so that the way to a separate program is real (its arguments, its own
user, its socket), but the program is not.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import xllamacpp

from appliance.core.state import Phase
from appliance.errors import EngineError
from appliance.runtime import health
from appliance.runtime.keeper import ProcessSettings
from appliance.runtime.process import ProcessDriver, end_all
from appliance.runtime.workers import llama_cpp
from tests.contract.test_driver import gone, replica, until

pytestmark = pytest.mark.integration
INTERPRETER = Path("/usr/bin/python3")


@pytest.fixture
def llama_server() -> Iterator[str]:
    if real := os.environ.get("LLAMA_SERVER"):
        yield real
        return
    if not INTERPRETER.exists():
        pytest.skip("no interpreter that every user may execute, for the stand-in")
    folder = Path(tempfile.mkdtemp(prefix="stand-in-"))
    folder.chmod(0o755)
    shutil.copytree(Path(xllamacpp.__file__).parent, folder / "xllamacpp")
    shutil.copy(llama_cpp.__file__, folder / "worker.py")
    program = folder / "llama-server"
    program.write_text(
        f"#!{INTERPRETER}\nimport sys\nsys.path.insert(0, {str(folder)!r})\n"
        "import worker\nworker.prepare(sys.argv[1:])()\n"
    )
    program.chmod(0o755)
    yield str(program)
    shutil.rmtree(folder)


def test_a_llama_server_program_serves_and_ends(
    llama_server: str, demo_weights: Path, tmp_path: Path
) -> None:
    async def story() -> None:
        settings = ProcessSettings(threads=1, launchers={"llama_server": llama_server}, drain_s=1)
        driver = ProcessDriver(tmp_path, lambda _: demo_weights, settings)
        await driver.open(lambda: None)
        await driver.start(replica())
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        assert seen.launcher == "llama-server"
        assert "no network namespace but its own" in seen.contained or os.geteuid() != 0
        answer = await health.get(Path(str(seen.endpoint)), "/v1/models")
        assert answer is not None
        assert b'"notes"' in answer.body
        await driver.stop("notes-0")
        await gone(driver, "notes-0")
        await driver.close()

    try:
        asyncio.run(story())
    finally:
        end_all(tmp_path)


def test_a_program_that_is_named_and_not_there_is_an_error(
    demo_weights: Path, tmp_path: Path
) -> None:
    async def story() -> None:
        settings = ProcessSettings(launchers={"llama_server": "/nowhere/llama-server"})
        driver = ProcessDriver(tmp_path, lambda _: demo_weights, settings)
        await driver.open(lambda: None)
        with pytest.raises(EngineError, match="/nowhere/llama-server") as caught:
            await driver.start(replica())
        assert caught.value.hint is not None
        assert "engine.llama_server" in caught.value.hint
        assert driver.observe() == {}
        await driver.close()

    asyncio.run(story())
