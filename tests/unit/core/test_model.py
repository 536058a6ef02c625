import dataclasses

import pytest

from appliance.core import wire
from appliance.core.ids import Digest
from appliance.core.model import Replica, Variant

VARIANT = Variant(
    model="small", version="1.0.0", name="Q4_0", publisher="acme", licence="MIT",
    manifest=Digest("sha256:" + "a" * 64), weights=Digest("sha256:" + "b" * 64),
    weights_bytes=4096, file="model.gguf", format="gguf", capabilities=("chat",), context_max=8192,
)  # fmt: skip
REPLICA = Replica("small-0", "small", VARIANT, "llama-cpp", 2048, 2, 1 << 29)


def test_a_variant_and_a_replica_survive_the_wire() -> None:
    def sent(data: object) -> dict[str, object]:
        return wire.loads(wire.dumps(data), what="it")

    assert Variant.from_wire(sent(VARIANT.to_wire())) == VARIANT
    assert Replica.from_wire(sent(REPLICA.to_wire())) == REPLICA


def test_a_variant_of_a_later_release_is_read_without_what_is_new() -> None:
    assert Variant.from_wire({**VARIANT.to_wire(), "colour": "blue"}) == VARIANT


@pytest.mark.parametrize("data", [{}, [], "capabilities", 7, {"capabilities": 7}])
def test_what_is_no_variant_is_a_key_or_type_error(data: object) -> None:
    with pytest.raises((KeyError, TypeError)):
        Variant.from_wire(data)  # type: ignore[arg-type]


def test_the_revision_stays_as_long_as_nothing_changes() -> None:
    # Releases compare what runs with what should: a change of this value restarts every engine.
    assert REPLICA.revision == "1359d212f338"
    assert Replica.from_wire(REPLICA.to_wire()).revision == REPLICA.revision


@pytest.mark.parametrize(
    "changes",
    [{"context": 4096}, {"slots": 1}, {"engine": "vllm"}, {"memory_limit_bytes": 1}, {"id": "x"},
     {"variant": dataclasses.replace(VARIANT, weights=Digest("sha256:" + "c" * 64))}],
)  # fmt: skip
def test_the_revision_changes_with_whatever_needs_a_new_start(changes: dict[str, object]) -> None:
    changed = dataclasses.replace(REPLICA, **changes)  # type: ignore[arg-type]
    assert changed.revision != REPLICA.revision


def test_a_reference_is_what_skopeo_and_oras_read() -> None:
    assert VARIANT.reference == "small:1.0.0-Q4_0"
