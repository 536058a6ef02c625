"""The whole appliance on a real node: manifests, images, the controller outside, the gateway's pod.

The controller signs in as the service account that the manifests make for it, with its rights and
no others, and is the user that they expect: what works with it needs nobody's favour.
"""

import base64
import datetime
import os
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from appliance.bundle.make import build as builder
from appliance.cli.bundle import cache_folder
from appliance.errors import NotFoundError
from appliance.kit.http import HttpClient
from appliance.kube.client import KubeApi
from appliance.kube.resources import MODEL_DEPLOYMENTS, NODES, PODS
from appliance.wiring import places
from tests.conftest import DEMO_BUNDLE
from tests.helpers.cluster_images import appliance_image, engine_image, pinned
from tests.helpers.clusters import Cluster
from tests.helpers.kubenode import KubeNode, prepared
from tests.helpers.organisation import Organisation
from tests.helpers.waiting import wait_until
from tests.k8s.test_manifests import install

Json = dict[str, Any]
ENGINES, SYSTEM = "edge-engines", "edge-system"
MODEL = "smollm2-135m-instruct"
USER = 65531
"""Who the controller and the gateway are; docs/how-to/kubernetes.md makes the user."""
_PORT = 30080
_TOKEN = f"/api/v1/namespaces/{SYSTEM}/secrets/edge-controller-token"
_AS_USER = (
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
    # This run's Python may lie where only root may look.
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip


class WholeNode:
    """A node of a cluster that serves the demo's real model; use it as a context.

    Its ``folder`` has to be one that everybody may pass through: it holds what others mount.
    """

    def __init__(
        self, cluster: Cluster, api: KubeApi, organisation: Organisation, folder: Path, **env: str
    ) -> None:
        self.cluster = cluster
        self.api = api
        self.state = folder / "state"
        self.node = this_machine(api)
        image = os.environ.get("EDGE_TEST_ENGINE") or engine_image(cluster)
        if cluster.is_ours:
            image = pinned("engine-llama-cpp")
        self.engine_image = image
        appliance_image(cluster)
        box = prepared(folder / "prepared", organisation, demo_bundle(organisation, folder))
        # A pod that waits for a folder is tried ever more rarely, up to two minutes apart.
        for place in (places.ROUTES.parent, places.SPOOL):
            (self.state / place).mkdir(parents=True)
            os.chown(self.state / place, USER, USER)
        install(api, state=self.state)
        self.controller = KubeNode(
            box, self.state,
            controllers_kubeconfig(api, cluster.kubeconfig, folder), ENGINES,
            name=self.node["metadata"]["name"], command=_AS_USER, environment=env,
            kubernetes_system_namespace=SYSTEM, kubernetes_engine_image=image, engine_threads="1",
        )  # fmt: skip
        for path in (self.state, *self.state.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)
        self.key = ""

    def __enter__(self) -> Self:
        try:
            self.start()
            wanted = {"id": "a-test", "tenant": "a-test"}
            self.key = str(self.local().call("POST", "/v1/gateway/keys", wanted)["key"])
            self._wait_for_gateway()
        except BaseException:
            self.controller.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for name in self.names():
                self.delete(name)
            wait_until(lambda: not self.pods(), "the end of all engines", 90)
        finally:
            self.controller.stop()

    def start(self) -> None:
        """Start the controller, and wait until it answers."""
        self.controller.start()
        try:
            wait_until(lambda: self.local().call("GET", "/v1/status"), "the controller", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.controller.log.read_text()[-2000:]}") from error

    def _wait_for_gateway(self) -> None:
        try:
            wait_until(lambda: self.gateway().call("GET", "/v1/models"), "the gateway's pod", 120)
        except AssertionError as error:
            events = self.api.list(f"/api/v1/namespaces/{SYSTEM}/events")[0]
            told = [f"{e['involvedObject']['name']}: {e['message']}" for e in events]
            raise AssertionError("\n".join([str(error), *told])) from error

    # --- what users do ---------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        """Where the gateway answers, for everybody who reaches the machine."""
        found = [a for a in self.node["status"]["addresses"] if a["type"] == "InternalIP"]
        return str(found[0]["address"]), _PORT

    def local(self) -> HttpClient:
        """Return a client of the controller itself."""
        socket = self.state / places.CONTROL_SOCKET
        return HttpClient.over_unix(socket, "the controller", f"see {self.controller.log}", 60)

    def gateway(self) -> HttpClient:
        """Return a client of the gateway in the cluster, with a key."""
        host, port = self.address
        url = f"http://{host}:{port}"
        return HttpClient.over_tcp(url, "the gateway", "see its pod's log", self.key)

    def apply(self, name: str, **spec: Any) -> None:
        """Do what ``kubectl apply`` does."""
        body = {
            "apiVersion": MODEL_DEPLOYMENTS.api_version,
            "kind": MODEL_DEPLOYMENTS.kind,
            "metadata": {"name": name, "namespace": ENGINES},
            "spec": {"model": MODEL, "context": 512, **spec},
        }
        self.api.apply(MODEL_DEPLOYMENTS.path(ENGINES, name), body, manager="kubectl")

    def delete(self, name: str) -> None:
        self.api.delete(MODEL_DEPLOYMENTS.path(ENGINES, name))

    # --- what is seen ----------------------------------------------------------------------------

    def names(self) -> list[str]:
        return [d["metadata"]["name"] for d in self.api.list(MODEL_DEPLOYMENTS.path(ENGINES))[0]]

    def get(self, name: str) -> Json:
        return self.api.get(MODEL_DEPLOYMENTS.path(ENGINES, name))

    def condition(self, name: str, kind: str) -> Json:
        """Return a condition; an empty one while there is none."""
        found = self.get(name).get("status", {}).get("conditions", ())
        return next((c for c in found if c["type"] == kind), {})

    def is_ready(self, name: str) -> bool:
        return bool(self.condition(name, "Ready").get("status") == "True")

    def pods(self, name: str = "") -> list[Json]:
        """Return the engines' pods, or those of one deployment."""
        ours = "app.kubernetes.io/managed-by=edge-appliance"
        labels = f"{ours},edge-appliance.dev/deployment={name}" if name else ours
        return self.api.list(PODS.path(ENGINES), labels=labels)[0]


def this_machine(api: KubeApi) -> Json:
    """Return the cluster's node that is this machine, where a controller outside can look after it.

    Several clusters may have nodes here, so its address has to be reachable too.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: the controller's folder is mounted into pods of this machine")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for node in api.list(NODES.path())[0]:
        if node["status"]["nodeInfo"]["bootID"] == boot:
            return node
    pytest.skip("no node of the cluster is this machine, whose folders its pods would mount")


def controllers_kubeconfig(api: KubeApi, kubeconfig: Path, folder: Path) -> Path:
    """Write a kubeconfig as docs/how-to/kubernetes.md does: with the controller's own token."""

    def token() -> str:
        try:
            return str(api.get(_TOKEN).get("data", {}).get("token", ""))
        except NotFoundError:
            return ""

    wait_until(token, "the controller's token", 30)
    found = yaml.safe_load(kubeconfig.read_text())
    for user in found["users"]:
        user["user"] = {"token": base64.b64decode(token()).decode()}
    own = folder / "kubeconfig"
    own.write_text(yaml.safe_dump(found))
    os.chown(own, USER, USER)
    own.chmod(0o600)
    return own


def demo_bundle(organisation: Organisation, folder: Path) -> Path:
    """Build the demo's bundle, with the real model in it."""
    definition = builder.read_definition(DEMO_BUNDLE)
    now = datetime.datetime.now(datetime.UTC)
    keys = organisation.repository
    return builder.build(definition, folder / "bundle", keys, cache_folder(None), now).folder


def is_ready(pod: Json) -> bool:
    """Whether a pod says so of itself."""
    found = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in found)
