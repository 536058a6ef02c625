"""How much memory an engine needs for a model.

Everything here is arithmetic over facts that someone else gathered. The terms follow llama.cpp:
weights (mapped from the file), the KV cache for every slot's whole context, and compute buffers and
the process itself, for which a measured allowance stands until the footprint of the first load
replaces it (a later release).
"""

from dataclasses import dataclass

from appliance.core.model import Variant
from appliance.core.quantity import format_bytes

ALLOWANCE_BYTES = 384 << 20
"""Compute buffers, prompt cache and the process; 120 MiB were measured with a small model."""

HEADROOM = 1.15
"""A limit is this much above the estimate: an engine killed at its limit serves nobody."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes, term by term. ``kv_bytes`` is None when the model's header does not say."""

    weights_bytes: int
    kv_bytes: int | None
    allowance_bytes: int

    @property
    def known_bytes(self) -> int:
        """The sum of the terms that are known: it needs at least this."""
        return self.weights_bytes + (self.kv_bytes or 0) + self.allowance_bytes

    @property
    def total_bytes(self) -> int | None:
        """The sum, or None when a term is not known."""
        return None if self.kv_bytes is None else self.known_bytes

    def arithmetic(self) -> str:
        """Return the sum in words."""
        return (
            f"weights {format_bytes(self.weights_bytes)} + KV cache {format_bytes(self.kv_bytes)}"
            f" + buffers {format_bytes(self.allowance_bytes)} = {format_bytes(self.total_bytes)}"
        )


def estimate(variant: Variant, context: int, slots: int) -> Estimate:
    """Return what one engine needs for ``slots`` requests of ``context`` tokens each."""
    per_token = variant.kv_bytes_per_token
    kv = None if per_token is None else per_token * context * slots
    return Estimate(variant.weights_bytes, kv, ALLOWANCE_BYTES)


def limit_bytes(need: Estimate) -> int:
    """Return the memory limit to set; without a known KV cache, four times the weights."""
    total = need.total_bytes
    if total is None:
        total = 4 * need.weights_bytes + need.allowance_bytes
    return int(total * HEADROOM)
