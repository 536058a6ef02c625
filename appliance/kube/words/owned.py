"""Whose a custom resource is, what it says, and where two of them differ. Pure.

What this node projects carries a mark: the label ``owner``, the annotation ``from`` with the node's
id, and in ``applied`` the word itself, with the object's name. Three texts tell everything, as in
``kubectl apply``: what was applied last, what stands there now, and what is wanted. A field that
stands otherwise than it was applied was edited. Field managers are asked only who else sets a
field: servers before 1.22 do not note who scaled.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from appliance.core import wire
from appliance.core.documents import API_VERSION, Document
from appliance.core.plain import plain
from appliance.core.reading import KINDS
from appliance.core.state import Origin
from appliance.kube.marks import MANAGER
from appliance.kube.resources import GROUP

Json = dict[str, Any]

OWNER = f"{GROUP}/owner"
FROM = f"{GROUP}/from"
GENERATION = f"{GROUP}/generation"
APPLIED = f"{GROUP}/applied"
REBUILT = f"{GROUP}/rebuilt"
DEMAND = f"{GROUP}/demand"
"""Set by gateways' nodes all the time; it is no part of what an object says."""

REBUILDER = "rebuilt-from-ledger"
"""Who sets what somebody here had made: not one of ours, so that it stays theirs."""

_REPLICAS = "replicas"

MOST_NOTES = 32 << 10
"""How many bytes of labels and annotations are kept of one object; servers allow 256 KiB."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A custom resource as it stands, without its status.

    ``others`` are the top-level fields of the spec that a manager other than ours sets;
    ``touched``: some such manager set the spec at all; ``scaled``: one of them is the scale
    subresource.
    """

    kind: str
    name: str
    uid: str
    spec: Json = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    touched: bool = True
    scaled: bool = False
    going: bool = False
    version: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name

    @property
    def owner(self) -> Origin:
        return owner_of(self.labels, self.annotations, self.name)


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a spec, as it stands here and as the fleet wants it; None: not set."""

    field: str
    here: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.field} is {_shown(self.here)} here, {_shown(self.wanted)} in the fleet"


def owner_of(labels: Mapping[str, str], annotations: Mapping[str, str], name: str) -> Origin:
    """Return who owns an object by its mark; without a whole mark it is somebody's here."""
    label = labels.get(OWNER)
    if label not in (Origin.FLEET, Origin.LOCAL) or not annotations.get(FROM):
        return Origin.CLUSTER
    return Origin(label) if applied(annotations, name) else Origin.CLUSTER


def seen_of(found: Json) -> Seen:
    """Return what matters of an object as the API server sends it."""
    meta = found["metadata"]
    labels = dict(meta.get("labels") or {})
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k != DEMAND}
    if weight(labels, notes) > MOST_NOTES:  # what is ours is enough to know whose it is
        labels, notes = (_ours(found) for found in (labels, notes))
    fields, touched, scaled = _managed(meta.get("managedFields"))
    return Seen(
        found["kind"],
        meta["name"],
        meta["uid"],
        found.get("spec") or {},
        labels,
        notes,
        fields,
        touched,
        scaled,
        "deletionTimestamp" in meta,
        meta.get("resourceVersion", ""),
    )


def weight(*notes: Mapping[str, str]) -> int:
    """Return how many characters labels and annotations have."""
    return sum(len(key) + len(value) for one in notes for key, value in one.items())


def _ours(notes: Mapping[str, str]) -> dict[str, str]:
    ours = {k: v for k, v in notes.items() if k.startswith(f"{GROUP}/")}
    return ours if weight(ours) <= MOST_NOTES else {}


def _managed(entries: Iterable[Json] | None) -> tuple[frozenset[str], bool, bool]:
    """Return the spec's fields that others set, whether any do, and whether somebody scaled it.

    An object whose managers nobody noted counts as touched: better asked for than overrun.
    """
    if not entries:
        return frozenset(), True, False
    found: set[str] = set()
    touched = scaled = False
    for entry in entries:
        spec = (entry.get("fieldsV1") or {}).get("f:spec")
        if spec is None or str(entry.get("manager")).startswith(MANAGER):
            continue
        touched = True
        scaled = scaled or entry.get("subresource") == "scale"
        found |= {f.removeprefix("f:") for f in spec if f.startswith("f:")}
    return frozenset(found), touched, scaled


def normal(kind: str, spec: Mapping[str, Any]) -> Json:
    """Return a spec without what is the default anyway, so that specs can be compared.

    Defaults are left out rather than filled in: a release that adds a field changes nothing. A
    spec that its kind does not allow (an old server checks less) is compared as it is.
    """
    written = {k: v for k, v in spec.items() if v is not None}
    data = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": written}
    try:
        document: Document = KINDS[kind].model_validate(data)
    except ValidationError:
        return written
    whole = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    found: Json = whole.get("spec", {})
    return found


def differences(here: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return the fields in which two normal specs differ, by name."""
    names = sorted(here.keys() | wanted.keys())
    return tuple(
        Difference(name, here.get(name), wanted.get(name))
        for name in names
        if here.get(name) != wanted.get(name)
    )


def drift(kind: str, here: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return in what a spec departs from the fleet's.

    The number of replicas is no drift where the fleet said between which numbers to scale.
    """
    want = normal(kind, wanted)
    free = {_REPLICAS} if want.get("scaling") else set()
    return tuple(d for d in differences(normal(kind, here), want) if d.field not in free)


def in_words(found: Iterable[Difference]) -> str:
    """Return differences as one sentence."""
    return "; ".join(str(d) for d in found)


def to_remove(have: Mapping[str, Any], target: Mapping[str, Any]) -> Json:
    """Return the merge patch that takes out of one normal spec what another does not hold."""
    patch: Json = {}
    for name, value in have.items():
        if name not in target:
            patch[name] = None
        elif isinstance(value, dict) and isinstance(target[name], dict):
            patch |= {name: below} if (below := to_remove(value, target[name])) else {}
    return patch


def mark(kind: str, name: str, document: Mapping[str, Any]) -> str:
    """Return what ``applied`` says of a document."""
    meta = document.get("metadata") or {}
    word: Json = {"name": name, "spec": normal(kind, document.get("spec") or {})}
    word |= {k: meta[k] for k in ("labels", "annotations") if meta.get(k)}
    return wire.dumps(word).decode()


def applied(annotations: Mapping[str, str], name: str) -> Json | None:
    """Return what was applied last; None when that is not known, or of another object.

    A copy that somebody made under another name carries the mark of what it was copied from.
    """
    try:
        found = json.loads(annotations.get(APPLIED, ""))
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("name") != name:
        return None
    return found if isinstance(found.get("spec"), dict) else None


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return plain(repr(text) if isinstance(value, str) else text, 120)
