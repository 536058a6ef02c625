"""A node with engines as processes is told that engines are pods from now on."""

import asyncio
from pathlib import Path

import pytest

from appliance.core.state import Phase
from appliance.runtime import record
from appliance.runtime.keeper import ProcessSettings
from appliance.runtime.process import ProcessDriver, end_all
from tests.contract.test_driver import replica, until
from tests.helpers.kubenode import KubeNode, prepared
from tests.helpers.organisation import Organisation
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.integration


def test_its_processes_end_also_while_the_cluster_cannot_be_reached(
    organisation: Organisation, demo_weights: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o711)
    state = prepared(tmp_path / "state", organisation)
    nobody = tmp_path / "no-kubeconfig-yet"
    node = KubeNode(state, state, nobody, "edge-engines", name="box-1")

    async def start() -> None:
        driver = ProcessDriver(state, lambda _: demo_weights, ProcessSettings(threads=1))
        await driver.open(lambda: None)
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        await driver.close()

    asyncio.run(start())
    try:
        assert [r.replica.id for r in record.running(state)] == ["notes-0"]
        node.start()
        wait_until(lambda: not list(record.running(state)), f"the end of it (see {node.log})", 30)
        text = "engines are pods now; ended the processes notes-0"
        wait_until(lambda: text in node.log.read_text(), "that it is said", 10)
    finally:
        node.stop()
        end_all(state)
