"""Models, deployments and machines as tests need them: everything has a value, all can be set."""

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from appliance.core import reading
from appliance.core.documents import API_VERSION, ModelDeployment
from appliance.core.ids import Digest
from appliance.core.machine import GpuSurvey, MachineFacts
from appliance.core.model import Denial, Variant
from appliance.planner.place import Place
from appliance.trust.metadata import SignedTarget

MIB = 1 << 20
GIB = 1 << 30


def digest_of(text: str) -> Digest:
    return Digest("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def variant(
    model: str = "small",
    version: str = "1.0.0",
    name: str = "Q4_0",
    *,
    weights_bytes: int = 100 * MIB,
    **changes: Any,
) -> Variant:
    facts: dict[str, Any] = {
        "publisher": "acme",
        "licence": "MIT",
        "manifest": digest_of(f"{model} {version} {name}"),
        "weights": digest_of(f"weights of {model} {version} {name}"),
        "file": "model.gguf",
        "format": "gguf",
        "capabilities": ("chat", "completions"),
        "context_max": 8192,
        "kv_bytes_per_token": 1024,
        **changes,
    }
    return Variant(model=model, version=version, name=name, weights_bytes=weights_bytes, **facts)


def listing(*variants: Variant) -> dict[str, SignedTarget]:
    """Return what a signed list says of variants."""
    return {v.path: SignedTarget(v.path, v.manifest, 500, None) for v in variants}


def wire_deployment(name: str = "notes", model: str = "small", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": model, **spec},
    }


def deployment(name: str = "notes", model: str = "small", **spec: Any) -> ModelDeployment:
    found = reading.from_wire(wire_deployment(name, model, **spec), "a test")
    assert isinstance(found, ModelDeployment)
    return found


def wire_site(name: str = "here") -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Site", "metadata": {"name": name}, "spec": {}}


def place(
    variants: Iterable[Variant] = (),
    memory_bytes: int | None = 8 * GIB,
    denied: Mapping[Digest, Denial] = MappingProxyType({}),
    **more: Any,
) -> Place:
    """Return a machine that is alone, or with ``node`` one of a cluster."""
    return Place(variants=tuple(variants), memory_bytes=memory_bytes, denied=denied, **more)


def machine(memory_bytes: int | None = 8 * GIB) -> MachineFacts:
    return MachineFacts(None, 2.0, memory_bytes, memory_bytes, GpuSurvey((), "no driver"))
