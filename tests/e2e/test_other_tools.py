"""Other people's tools read what we write."""

import json
import subprocess

import pytest

from appliance.demo.stack import NODE
from tests.conftest import need_tool
from tests.e2e.conftest import Running

pytestmark = pytest.mark.integration
REFERENCE = "smollm2-135m-instruct:1.0.0-Q4_1"


def test_skopeo_reads_a_model_in_the_store_and_in_the_bundle(running: Running) -> None:
    skopeo = need_tool("skopeo")
    for folder in (running.stack.node_state / "store", running.stack.scratch / "bundle"):
        done = subprocess.run(
            [skopeo, "inspect", "--raw", f"oci:{folder}:{REFERENCE}"],
            capture_output=True,
            check=True,
        )
        manifest = json.loads(done.stdout)
        assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
        (layer,) = manifest["layers"]
        assert (folder / "blobs" / layer["digest"].replace(":", "/")).stat().st_size == layer[
            "size"
        ]


def test_mosquitto_sub_shows_the_topic_tree(running: Running) -> None:
    sub = need_tool("mosquitto_sub")
    at = running.stack.at
    running.stack.gateway(running.key).call("GET", "/v1/models")
    done = subprocess.run(
        [sub, "-h", at.host, "-p", str(at.broker), "-t", "ea1/#", "-F", "%t %r", "-W", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    retained = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" 1")}
    assert retained == {
        f"ea1/{NODE}/{end}" for end in ("up/state", "up/reported", "dn/desired", "dn/ack")
    }
