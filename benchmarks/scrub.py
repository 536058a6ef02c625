"""The scrub: what one core verifies from the page cache, beside BLAKE3 over bytes in memory."""

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from appliance.cache import verify
from appliance.core.ids import Digest
from benchmarks.measure import Row

_BYTES = 512 << 20
_CHUNK = 1 << 20
_ROUNDS = 7
_TARGET_GB_S = 2.0


def run() -> list[Row]:
    """Measure in turn, by processor time, so that other work on the machine counts little."""
    with tempfile.TemporaryDirectory(prefix="appliance-bench-") as folder:
        path = Path(folder, "blob")
        data = os.urandom(_BYTES)
        path.write_bytes(data)
        digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        index = verify.finish(verify.verify(path, digest)).blake3
        if index is None:
            raise RuntimeError("the blob is not what was written")

        def scrubbed() -> None:
            if verify.finish(verify.verify(path, digest, index)).blake3 is None:
                raise RuntimeError("the blob is not what was written")

        def bare() -> None:
            hasher, view = blake3(), memoryview(data)
            for offset in range(0, _BYTES, _CHUNK):
                hasher.update(view[offset : offset + _CHUNK])
            hasher.digest()

        pairs = [(_gb_per_cpu_s(scrubbed), _gb_per_cpu_s(bare)) for _ in range(_ROUNDS)]
    value, reference = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    return [
        Row(
            "scrub from page cache, one core", value, "GB/s", "BLAKE3 in memory", reference,
            value / reference, f">= {_TARGET_GB_S:g} GB/s", value >= _TARGET_GB_S,
        )
    ]  # fmt: skip


def _gb_per_cpu_s(call: Callable[[], None]) -> float:
    began = time.process_time()
    call()
    return _BYTES / 1e9 / (time.process_time() - began)
