"""A cluster's objects in memory, as far as planning a projection needs: who sets which field."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.core.mirror import Asked, Key, Mirrored
from appliance.core.state import Origin
from appliance.kube.marks import MANAGER
from appliance.kube.words import owned
from appliance.kube.words.owned import Seen
from appliance.kube.words.plan import (
    Drop,
    Finding,
    Heard,
    Keep,
    Put,
    Remake,
    Remove,
    Step,
    TakenAway,
    TakeOver,
    View,
    Word,
)
from appliance.kube.words.projection import plan
from tests.helpers.models import wire_deployment

KIND = "ModelDeployment"


@dataclass
class Held:
    """One object: each field of its spec with its managers."""

    uid: str
    spec: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    managers: dict[str, set[str]] = field(default_factory=dict)
    scaled: bool = False


class World:
    """A cluster, a node's words and its ledger; ``notes_scale`` as servers since 1.22 do."""

    def __init__(
        self, policy: TakeOver = TakeOver.IF_NO_DIFF, *, node: str = "n1", notes_scale: bool = True
    ) -> None:
        self.node, self.policy, self.notes_scale = node, policy, notes_scale
        self.epoch = 1
        self.objects: dict[Key, Held] = {}
        self.fleet: dict[Key, Word] = {}
        self.local: dict[Key, Word | None] = {}
        self.rows: dict[Key, Mirrored] = {}
        self.asked: dict[Key, Asked] = {}
        self.findings: dict[str, Finding] = {}
        self._uids = itertools.count(1)

    # --- what people do --------------------------------------------------------------------------

    def say(self, name: str, **spec: Any) -> None:
        self.fleet[KIND, name] = Word(Origin.FLEET, wire_deployment(name, **spec), 1)

    def apply(self, name: str, **spec: Any) -> None:
        self.local[KIND, name] = Word(Origin.LOCAL, wire_deployment(name, **spec))
        self.asked[KIND, name] = Asked(KIND, name, "force")

    def release(self, name: str) -> None:
        self.local.pop((KIND, name), None)
        self.asked[KIND, name] = Asked(KIND, name, "force")

    def kubectl_apply(self, name: str, **spec: Any) -> None:
        spec = wire_deployment(name, **spec)["spec"]
        held = self.objects.get((KIND, name))
        if held is None:
            managers = {f: {"kubectl"} for f in spec}
            self.objects[KIND, name] = Held(f"u{next(self._uids)}", spec, managers=managers)
            return
        for name_, value in spec.items():
            if held.spec.get(name_) != value:
                held.spec[name_] = value
                held.managers[name_] = {"kubectl"}

    def kubectl_unset(self, name: str, what: str) -> None:
        self.objects[KIND, name].spec.pop(what, None)
        self.objects[KIND, name].managers.pop(what, None)

    def scale(self, name: str, replicas: int) -> None:
        held = self.objects[KIND, name]
        held.spec["replicas"] = replicas
        if self.notes_scale:
            held.managers["replicas"], held.scaled = {"hpa"}, True

    def kubectl_delete(self, name: str) -> None:
        del self.objects[KIND, name]

    def lose(self) -> None:
        """The datastore is gone, and this was noticed."""
        self.objects.clear()
        self.epoch += 1

    # --- what the loop does ----------------------------------------------------------------------

    def view(self) -> View:
        words = {k: w for k, w in self.fleet.items() if k not in self.local}
        words |= {k: w for k, w in self.local.items() if w is not None}
        removed = frozenset(k for k, w in self.local.items() if w is None and k in self.fleet)
        seen = {key: self._seen(key) for key in self.objects}
        return View(
            self.node, self.epoch, self.policy, words, dict(self.fleet), removed, seen,
            dict(self.rows), dict(self.asked),
        )  # fmt: skip

    def steps(self) -> tuple[Step, ...]:
        return plan(self.view()).steps

    def pass_(self, most_writes: int = 1000) -> int:
        """Make a pass, killed after so many writes; return how many there were."""
        made = plan(self.view())
        self.findings = {f.name: f for f in made.findings}
        for step in made.steps:
            self._note(step)
        writes = 0
        for step in made.steps:
            if isinstance(step, Put | Remake | Remove):
                if writes == most_writes:
                    return writes
                writes += 1
                self._write(step)
        for step in made.steps:
            self._remember(step)
        return writes

    def settle(self) -> None:
        for _ in range(4):
            settled = not self.steps()
            self.pass_()
            if settled:
                return
        raise AssertionError(f"it does not settle: {self.steps()}")

    def spec(self, name: str) -> dict[str, Any]:
        return owned.normal(KIND, self.objects[KIND, name].spec)

    def owner(self, name: str) -> Origin:
        return self._seen((KIND, name)).owner

    def _seen(self, key: Key) -> Seen:
        held = self.objects[key]
        strangers = {
            f for f, who in held.managers.items() if any(not m.startswith(MANAGER) for m in who)
        }
        return Seen(
            *key, held.uid, dict(held.spec), dict(held.labels), dict(held.annotations),
            frozenset(strangers), bool(strangers), held.scaled and "replicas" in strangers,
        )  # fmt: skip

    def _note(self, step: Step) -> None:
        if isinstance(step, Keep | Put):
            self.rows[step.row.key] = step.row
        elif isinstance(step, Drop):
            self.rows.pop(step.key, None)
        elif isinstance(step, Remove) and step.row is not None:
            self.rows[step.key] = step.row
        elif isinstance(step, TakenAway) and step.fleet_asks:
            self.local[step.key] = None
        elif isinstance(step, TakenAway):
            self.local.pop(step.key, None)

    def _remember(self, step: Step) -> None:
        if isinstance(step, Put | Remake):
            held = self.objects[step.row.key]
            self.rows[step.row.key] = replace(
                step.row, uid=held.uid, epoch=self.epoch, spec=dict(held.spec),
                labels=dict(held.labels), annotations=dict(held.annotations),
            )  # fmt: skip
        elif isinstance(step, Remove):
            self.rows.pop(step.key, None)
        elif isinstance(step, Heard):
            self.asked.pop(step.wish.key, None)

    def _write(self, step: Put | Remake | Remove) -> None:
        if isinstance(step, Remove):
            assert self.objects.pop(step.key).uid == step.uid
            return
        spec, meta, key = step.body["spec"], step.body["metadata"], step.row.key
        if isinstance(step, Remake) or step.before is None:
            assert key not in self.objects
            self.objects[key] = Held(f"u{next(self._uids)}", {})
        held = self.objects[key]
        for name, value in (step.remove if isinstance(step, Put) else {}).items():
            if value is None:
                held.spec.pop(name, None)
                held.managers.pop(name, None)
        self._set(held, spec, step.manager)
        held.labels |= meta["labels"]
        held.annotations |= meta["annotations"]

    def _set(self, held: Held, spec: dict[str, Any], manager: str) -> None:
        for name in [n for n, who in held.managers.items() if manager in who and n not in spec]:
            held.managers[name].discard(manager)
            if not held.managers[name]:
                del held.managers[name], held.spec[name]
        for name, value in spec.items():
            others = held.managers.get(name, set()) if held.spec.get(name) == value else set()
            held.spec[name] = value
            held.managers[name] = {*others, manager}


def names(findings: Iterable[Finding]) -> set[str]:
    return {f.name for f in findings}
