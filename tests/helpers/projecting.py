"""A node that projects into a real cluster: its ledger, its loop, and people with kubectl."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from appliance.core import reading
from appliance.core.documents import Document
from appliance.core.mirror import Key, Mirrored
from appliance.core.state import DesiredState
from appliance.kube.client import KubeApi
from appliance.kube.objects.crd import RESOURCES, definition
from appliance.kube.words import owned
from appliance.kube.words.datastore import path_of
from appliance.kube.words.owned import Json
from appliance.kube.words.plan import Finding, TakeOver
from appliance.ledger import mirror
from appliance.ledger.db import Ledger
from appliance.node import desired
from appliance.node.desired import FleetWord
from appliance.node.projection import Here, Projection
from tests.helpers.models import wire_deployment
from tests.helpers.waiting import StillClock

KIND = "ModelDeployment"
_SERVER_SET = (
    "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink",
)  # fmt: skip


def definitions() -> list[Json]:
    return [definition(resource) for resource in RESOURCES]


class ProjectingNode:
    """One node's words, its ledger and its loop."""

    def __init__(
        self, folder: Path, api: KubeApi, namespace: str,
        policy: TakeOver = TakeOver.IF_NO_DIFF, node: str = "n1",
    ) -> None:  # fmt: skip
        self.api, self.namespace = api, namespace
        self.ledger = Ledger(folder / f"{node}.db")
        self.ledger.record(mirror.enter).result()
        self.here = Here(node, namespace, policy)
        self.restart()

    def restart(self) -> None:
        self.projection = Projection(
            self.api, self.ledger, self.here, StillClock(), definitions=definitions
        )

    def move(self, namespace: str) -> None:
        """What this is to the node: another datastore, and the old one never comes back."""
        self.namespace, self.here = namespace, replace(self.here, namespace=namespace)
        self.restart()

    # --- words -----------------------------------------------------------------------------------

    def fleet(self, *documents: dict[str, Any], generation: int = 1) -> None:
        word = FleetWord(1, generation, "hash", tuple(map(document, documents)))
        self._do(partial(desired.set_fleet, word=word))

    def apply(self, wire: dict[str, Any]) -> str:
        found = document(wire)
        effect = partial(desired.apply_locally, document=found, by="uid 0", at="now")
        return str(self._do(effect))

    def delete(self, name: str) -> str:
        effect = partial(desired.delete_locally, name=name, by="uid 0", at="now")
        return str(self._do(effect))

    def release(self, name: str) -> str:
        return str(self._do(partial(desired.release, name=name)))

    def _do(self, effect: Callable[..., Any]) -> Any:
        return self.ledger.record(effect).result()

    # --- the loop --------------------------------------------------------------------------------

    def pass_(self) -> bool:
        """Make one pass; return whether it asked for another soon."""
        return asyncio.run(self.projection.reconcile()) is not None

    def settle(self) -> None:
        for _ in range(6):
            if not self.pass_():
                return
        raise AssertionError("it does not settle")

    @property
    def findings(self) -> dict[str, Finding]:
        return {f.name: f for f in self.projection.findings}

    def in_force(self) -> DesiredState:
        return self.ledger.read(desired.in_force)

    def rows(self) -> Mapping[Key, Mirrored]:
        return self.ledger.read(mirror.rows)

    # --- the cluster, as somebody with kubectl sees it -------------------------------------------

    def object(self, name: str) -> Json:
        return self.api.get(path_of(self.namespace, (KIND, name)))

    def names(self) -> set[str]:
        return {o["metadata"]["name"] for o in self.objects()}

    def objects(self) -> list[Json]:
        return self.api.list(path_of(self.namespace, (KIND, "")))[0]

    def spec(self, name: str) -> Json:
        return owned.normal(KIND, self.object(name)["spec"])

    def owner(self, name: str) -> str:
        found: str = owned.seen_of(self.object(name)).owner
        return found

    def kubectl_apply(self, wire: dict[str, Any]) -> Json:
        path = path_of(self.namespace, (KIND, wire["metadata"]["name"]))
        return self.api.apply(path, wire, manager="kubectl", force=True)

    def kubectl_delete(self, name: str) -> None:
        assert self.api.delete(path_of(self.namespace, (KIND, name)))

    def scale(self, name: str, replicas: int) -> None:
        """What ``kubectl scale``, an HPA and KEDA do."""
        path = path_of(self.namespace, (KIND, name)) + "/scale"
        self.api.merge(path, {"spec": {"replicas": replicas}})

    def comparable(self) -> dict[str, Json]:
        """Return all objects without what the server sets, and without our note of a rebuild."""
        found = {}
        for item in self.objects():
            meta = {k: v for k, v in item["metadata"].items() if k not in _SERVER_SET}
            notes = {k: v for k, v in meta.get("annotations", {}).items() if k != owned.REBUILT}
            meta["annotations"] = notes
            found[meta["name"]] = {**item, "metadata": meta}
        return found


def document(wire: dict[str, Any]) -> Document:
    return reading.from_wire(wire, "a test")


def wire(name: str, model: str = "small", **spec: Any) -> dict[str, Any]:
    return wire_deployment(name, model, **spec)


class Killed(BaseException):
    """The controller ends here, as by kill -9."""


class MortalApi(KubeApi):
    """Ends the controller before or after its n-th change."""

    changes = 0
    dies_at = 0
    dies_after = False

    def kill_at(self, n: int, *, after: bool) -> None:
        self.changes, self.dies_at, self.dies_after = 0, n, after

    def _call(
        self, method: str, path: str, query: Mapping[str, str] | None = None,
        body: Json | None = None, content: str = "application/json",
    ) -> Json:  # fmt: skip
        self.changes += method != "GET"
        dies = method != "GET" and self.changes == self.dies_at
        if dies and not self.dies_after:
            raise Killed
        found = super()._call(method, path, query, body, content)
        if dies:
            raise Killed
        return found
