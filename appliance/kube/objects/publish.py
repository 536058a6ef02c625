"""Which node holds what, said and read through ``Model`` and ``Site`` objects.

Each node server-side-applies its own entries under a field manager of its own: the variants it
holds, which of them must not start there, and what the machine has. Who plans reads these objects
alone. Nothing here is trusted: a node opens weights only after asking its own catalogue again.

A variant is known by version and name, so that two nodes may disagree about its digest while a new
one is on its way. A node that held the digest that is shown, and has another now, knows better and
takes the entry over; one that never held it gives way, and is not planned for until it does.

Pure: catalogue and facts in, bodies out; objects in, holdings out.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.core import ids
from appliance.core.catalogue import summary
from appliance.core.ids import Digest
from appliance.core.machine import Gpu, GpuSurvey, MachineFacts
from appliance.core.model import Denial, Variant
from appliance.kube.resources import Resource
from appliance.planner.select import version_key

Json = dict[str, Any]

_MANAGER = "edge-appliance-node-"
_UUID = re.compile(r"[0-9A-Za-z./_-]+")
_ABOUT = ("summary", "publisher", "licence", "capabilities")


def manager_of(node: str, sub: str = "") -> str:
    """Return the field manager of a node's own entries.

    Status has one of its own: servers before 1.22 keep one set of fields for each manager, so that
    applying the status would give up the spec.
    """
    return f"{_MANAGER}{node}"[:120] + (f"/{sub}" if sub else "")


@dataclass(frozen=True, slots=True)
class Own:
    """What one node has to say of itself. ``node`` is its name in the cluster, ``id`` its own."""

    node: str
    id: str
    version: str
    variants: tuple[Variant, ...]
    denied: Mapping[Digest, Denial]
    machine: MachineFacts
    fenced: Mapping[str, str] = field(default_factory=dict)
    """Why GPUs are not to be used, by UUID."""
    disk_pressure: bool | None = None


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node's entry in a Model."""

    name: str
    held: frozenset[Digest]
    denied: tuple[tuple[Digest, Denial], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelView:
    """What is read of a ``Model``; ``managers`` are all that wrote to it."""

    name: str
    uid: str = ""
    variants: tuple[Variant, ...] = ()
    nodes: tuple[NodeEntry, ...] = ()
    managers: frozenset[str] = frozenset()
    about: tuple[tuple[str, Any], ...] = ()

    def node(self, name: str) -> NodeEntry | None:
        """Return one node's entry."""
        return next((entry for entry in self.nodes if entry.name == name), None)

    def variant(self, version: str, name: str) -> Variant | None:
        """Return the variant that is shown by this version and name."""
        return next((v for v in self.variants if (v.version, v.name) == (version, name)), None)

    @property
    def is_ours_alone(self) -> bool:
        """Whether no one but nodes wrote to it."""
        return all(manager.startswith(_MANAGER) for manager in self.managers)


_NOT_SAID = MachineFacts(None, None, None, None, GpuSurvey(None, "the node does not say"))


@dataclass(frozen=True, slots=True)
class NodeHolding:
    """What one node of a site can serve with, for whoever plans."""

    node: str
    variants: tuple[Variant, ...] = ()
    denied: Mapping[Digest, Denial] = field(default_factory=dict)
    machine: MachineFacts = _NOT_SAID
    fenced: Mapping[str, str] = field(default_factory=dict)
    disk_pressure: bool | None = None
    id: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class SiteView:
    """What is read of a ``Site``: its nodes, as they describe themselves."""

    name: str
    nodes: tuple[NodeHolding, ...]

    def node(self, name: str) -> NodeHolding | None:
        """Return one node's entry."""
        return next((entry for entry in self.nodes if entry.node == name), None)


@dataclass(frozen=True, slots=True)
class Write:
    """What to do to one Model, in this order; ``force`` is for the spec alone."""

    name: str
    spec: Json | None = None
    status: Json | None = None
    force: bool = False
    leaves: bool = False
    delete_uid: str = ""


# --- what a node says ----------------------------------------------------------------------------


def model_writes(own: Own, shown: Mapping[str, ModelView]) -> list[Write]:
    """Return what a node has to write so that the Models say what it holds; nothing: they do."""
    held: dict[str, list[Variant]] = {}
    for variant in own.variants:
        held.setdefault(variant.model, []).append(variant)
    writes = [_write(own, n, held[n], shown.get(n) or ModelView(n)) for n in sorted(held)]
    gone = (view for name, view in sorted(shown.items()) if name not in held)
    writes += [leaving(own.node, view) for view in gone]
    return [write for write in writes if write is not None]


def leaving(node: str, view: ModelView) -> Write | None:
    """Return what to do to a Model of which a node holds nothing any more.

    The last node to leave deletes it, unless somebody else wrote to it.
    """
    others = [entry for entry in view.nodes if entry.name != node]
    if not others and view.is_ours_alone:
        return Write(view.name, delete_uid=view.uid)
    return None if view.node(node) is None else Write(view.name, leaves=True)


def without(node: str, found: Json) -> tuple[Json, Json]:
    """Return merge patches for spec and status of a Model or Site that take a node's word back.

    What no other node holds goes too. They name the version that was read: server-side apply
    cannot do this, as old servers make a list that loses its last entry ``null``, and refuse that.
    """
    nodes = [n for n in (found.get("status") or {}).get("nodes") or () if n.get("name") != node]
    held = {manifest for entry in nodes for manifest in entry.get("held") or ()}
    variants = (found.get("spec") or {}).get("variants") or ()
    at = {"resourceVersion": found["metadata"]["resourceVersion"]}
    left = [v for v in variants if v.get("manifest") in held]
    return (
        {"metadata": at, "spec": {"variants": left}},
        {"metadata": at, "status": {"nodes": nodes}},
    )


def _write(own: Own, name: str, held: list[Variant], view: ModelView) -> Write | None:
    """Return what to write to a Model that this node holds.

    The spec goes first and the status after it, so that what the status names was applied: a node
    owns the entries of all it holds, and none of them goes when another node leaves.
    """
    before = view.node(own.node)
    had = frozenset[Digest]() if before is None else before.held
    entry = _node_entry(own, held)
    told = [v for v in held if not _gives_way(v, view, had)]
    about = _about({_place(v): v for v in (*view.variants, *told)}.values())
    shown = dict(view.about)
    if not view.is_ours_alone:  # people's words stand
        about = {k: v for k, v in about.items() if shown.get(k, v) == v}
        shown = {k: v for k, v in shown.items() if k in about}
    otherwise = any(_is_shown_otherwise(v, view) for v in told)
    missing = any(view.variant(*_place(v)) is None for v in told)
    stale = otherwise or missing or entry.held != had or about != shown
    if not stale and before == entry:
        return None
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in about.items()}
    spec = {**plain, "variants": [_entry(v) for v in told]} if stale else None
    force = otherwise or about != shown
    return Write(name, spec, _status(entry) if before != entry else None, force=force)


def _place(variant: Variant) -> tuple[str, str]:
    return variant.version, variant.name


def _is_shown_otherwise(variant: Variant, view: ModelView) -> bool:
    there = view.variant(*_place(variant))
    return there is not None and _entry(there) != _entry(variant)


def _gives_way(variant: Variant, view: ModelView, had: frozenset[Digest]) -> bool:
    """Whether another digest is shown that this node never held."""
    there = view.variant(*_place(variant))
    return there is not None and there.manifest != variant.manifest and there.manifest not in had


def _about(variants: Iterable[Variant]) -> dict[str, Any]:
    """Return what is true of a model as a whole: all nodes that see the same say the same."""
    known = sorted(variants, key=lambda v: (version_key(v.version), v.name))
    publishers, licences = {v.publisher for v in known}, {v.licence for v in known}
    about: dict[str, Any] = {"summary": summary(known)} if known else {}
    if len(publishers) == 1:
        about["publisher"] = publishers.pop()
    if len(licences) == 1:
        about["licence"] = licences.pop()
    if capabilities := {c for v in known for c in v.capabilities}:
        about["capabilities"] = tuple(sorted(capabilities))
    return about


def _entry(variant: Variant) -> Json:
    whole = {
        "version": variant.version,
        "name": variant.name,
        "manifest": variant.manifest,
        "weights": variant.weights,
        "weightsBytes": variant.weights_bytes,
        "format": variant.format,
        "file": variant.file,
        "contextMax": variant.context_max,
        "kvBytesPerToken": variant.kv_bytes_per_token,
        "licence": variant.licence,
        "publisher": variant.publisher,
        "capabilities": list(variant.capabilities),
    }
    return {key: value for key, value in whole.items() if value is not None}


def _node_entry(own: Own, held: Iterable[Variant]) -> NodeEntry:
    manifests = frozenset(v.manifest for v in held)
    denied = tuple((m, own.denied[m]) for m in sorted(manifests & own.denied.keys()))
    return NodeEntry(own.node, manifests, denied)


def _status(entry: NodeEntry) -> Json:
    denied = [
        {"manifest": manifest, "reason": d.reason, "message": d.message, "stop": d.stop}
        for manifest, d in entry.denied
    ]
    return {"nodes": [{"name": entry.name, "held": sorted(entry.held), "denied": denied}]}


def body(kind: Resource, name: str, **parts: Json) -> Json:
    """Return an object to apply, with its ``spec`` or its ``status``."""
    head = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}
    return {**head, **parts}


def site_status(own: Own) -> Json:
    """Return a node's entry in its Site. Free memory is not in it: it never stands still."""
    entry: Json = {"name": own.node, "id": own.id, "version": own.version}
    if own.machine.memory_bytes is not None:
        entry["memoryBytes"] = own.machine.memory_bytes
    if own.machine.gpus.gpus is not None:
        entry["gpus"] = [_gpu_entry(gpu, own.fenced) for gpu in own.machine.gpus.gpus]
    if own.disk_pressure is not None:
        entry["diskPressure"] = own.disk_pressure
    return {"nodes": [entry]}


def _gpu_entry(gpu: Gpu, fenced: Mapping[str, str]) -> Json:
    whole = {
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memoryBytes": gpu.memory_bytes,
        "fenced": fenced.get(gpu.uuid),
    }
    return {key: value for key, value in whole.items() if value is not None}


# --- what is read --------------------------------------------------------------------------------


def read_model(found: Json) -> ModelView:
    """Return what matters of a Model. Entries that make no sense are left out: anyone may write."""
    metadata, spec = found["metadata"], found.get("spec") or {}
    name = str(metadata["name"])
    variants = (_variant(name, entry) for entry in spec.get("variants") or ())
    nodes = (_read_entry(entry) for entry in (found.get("status") or {}).get("nodes") or ())
    plain = {k: spec[k] for k in _ABOUT if spec.get(k)}
    about = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return ModelView(
        name,
        str(metadata.get("uid", "")),
        tuple(v for v in variants if v is not None),
        tuple(n for n in nodes if n is not None),
        frozenset(str(m.get("manager")) for m in metadata.get("managedFields") or ()),
        tuple(about.items()),
    )


def _variant(model: str, entry: Json) -> Variant | None:
    try:
        return Variant(
            model=model,
            version=str(entry["version"]),
            name=sys.intern(str(entry["name"])),
            publisher=sys.intern(str(entry["publisher"])),
            licence=sys.intern(str(entry["licence"])),
            manifest=ids.digest(entry["manifest"]),
            weights=ids.digest(entry["weights"]),
            weights_bytes=int(entry["weightsBytes"]),
            file=str(entry["file"]),
            format=sys.intern(str(entry["format"])),
            capabilities=tuple(sys.intern(str(c)) for c in entry.get("capabilities") or ()),
            context_max=entry.get("contextMax"),
            kv_bytes_per_token=entry.get("kvBytesPerToken"),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _read_entry(entry: Json) -> NodeEntry | None:
    try:
        denied = tuple(
            (Digest(d["manifest"]), Denial(d["reason"], d["message"], stop=d.get("stop", False)))
            for d in entry.get("denied") or ()
        )
        held = frozenset(ids.digest(manifest) for manifest in entry.get("held") or ())
        return NodeEntry(sys.intern(entry["name"]), held, denied)
    except (KeyError, TypeError, ValueError):
        return None


def read_site(found: Json) -> SiteView:
    """Return what matters of a Site: the machines of its nodes."""
    entries = (found.get("status") or {}).get("nodes") or ()
    nodes = (_read_machine(entry) for entry in entries if isinstance(entry.get("name"), str))
    return SiteView(str(found["metadata"]["name"]), tuple(nodes))


def _read_machine(entry: Json) -> NodeHolding:
    known = entry.get("gpus")
    gpus = None if known is None else tuple(_read_gpu(gpu) for gpu in known if "uuid" in gpu)
    survey = GpuSurvey(
        gpus, "the node's own entry" if known is not None else "the node does not say"
    )
    return NodeHolding(
        entry["name"],
        machine=MachineFacts(None, None, entry.get("memoryBytes"), None, survey),
        fenced={gpu["uuid"]: gpu["fenced"] for gpu in known or () if _is_fenced(gpu)},
        disk_pressure=entry.get("diskPressure"),
        id=str(entry.get("id", "")),
        version=str(entry.get("version", "")),
    )


def _is_fenced(entry: Json) -> bool:
    """Whether it is fenced; its number becomes part of an expression, so that it must be one."""
    uuid = entry.get("uuid")
    return bool(entry.get("fenced")) and isinstance(uuid, str) and bool(_UUID.fullmatch(uuid))


def _read_gpu(entry: Json) -> Gpu:
    return Gpu(entry["uuid"], entry.get("name"), None, entry.get("memoryBytes"), None)


def holdings(models: Iterable[ModelView], sites: Iterable[SiteView]) -> list[NodeHolding]:
    """Return each node that said something of itself, with the variants it can serve, by name.

    A node holds what its own entry names *and* the Model shows: a manifest that is not shown is a
    digest that two nodes disagree about.
    """
    nodes = {node.node: node for site in sites for node in site.nodes}
    variants: dict[str, list[Variant]] = {name: [] for name in nodes}
    denied: dict[str, dict[Digest, Denial]] = {name: {} for name in nodes}
    for model in sorted(models, key=lambda m: m.name):
        for entry in model.nodes:
            known = [v for v in model.variants if v.manifest in entry.held]
            variants.setdefault(entry.name, []).extend(known)
            denied.setdefault(entry.name, {}).update(dict(entry.denied))
    return [
        replace(
            nodes.get(name) or NodeHolding(name),
            variants=tuple(variants[name]),
            denied=denied[name],
        )
        for name in sorted(variants)
    ]
