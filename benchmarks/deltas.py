"""Deltas: what a new version costs to carry when the receiver holds the one before.

On the demo's real model where it can be had, else on a synthetic one of the same shape: said in the
row. A merged LoRA is simulated by other bytes in every tensor of q and v, which is what it costs at
worst; edited metadata by 200 bytes more in one entry.
"""

import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from appliance.bundle.format import delta
from appliance.bundle.format.delta import Recipe, Sized
from appliance.bundle.make import build as builder
from appliance.bundle.make.sources import Fetcher, describe
from appliance.cli.bundle import cache_folder
from appliance.core import gguf
from appliance.errors import ApplianceError
from benchmarks.measure import Row, row
from tests.helpers.gguf import llama_of

ROOT = Path(__file__).parent.parent
_REBUILD = r"""
import hashlib, re, sys, time
from contextlib import nullcontext
from pathlib import Path
from appliance.bundle.format import delta
from appliance.bundle.format.rebuild import rebuilt
recipe, old, new, digest, size = sys.argv[1:]
made = delta.parse(Path(recipe).read_bytes(), delta.Sized(digest, int(size)))
hasher, buffer = hashlib.sha256(), memoryview(bytearray(4 << 20))
def fresh(offset):
    file = open(new, "rb")
    file.seek(offset)
    return file
began = time.perf_counter()
with rebuilt(made, {base.digest: Path(old) for base in made.bases}, fresh) as file:
    while count := file.readinto(buffer):
        hasher.update(buffer[:count])
took = time.perf_counter() - began
assert "sha256:" + hasher.hexdigest() == digest
print(took, re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def run() -> list[Row]:
    """Measure everything; takes some ten seconds."""
    scratch = Path(tempfile.mkdtemp(prefix="appliance-bench-"))
    try:
        old, name = _weights()
        lora = _merged_lora(old)
        edited = _edited(old)
        rows = [
            _cost(f"delta, LoRA merged into q,v ({name})", old, lora, 0.12),
            _cost(f"delta, metadata edited ({name})", old, edited, 0.01),
        ]
        return [*rows, *_rebuilding(scratch, old, lora)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _weights() -> tuple[bytes, str]:
    definition = builder.read_definition(ROOT / "bundles" / "demo.yaml")
    ((_, variant),) = definition.variants()
    (file,) = variant.named
    try:
        locked = builder.read_lock(definition)[describe(file.source)]
        fetcher = Fetcher(cache_folder(None), definition.path.parent)
        return fetcher.fetch(file.source, locked).path.read_bytes(), "SmolLM2-135M Q4_1"
    except ApplianceError:
        return _synthetic(), "synthetic llama"


def _synthetic() -> bytes:
    """Return a llama of some 100 MB whose parts have the shares that SmolLM2's have."""
    sizes = {"attn_q": 208, "attn_k": 70, "attn_v": 70, "attn_output": 208, "ffn": 1660}
    tensors = {"token_embd.weight": os.urandom(30 << 20)}
    for block in range(30):
        for part, kib in sizes.items():
            tensors[f"blk.{block}.{part}.weight"] = os.urandom(kib << 10)
    return llama_of(tensors, tokens=[f"token {number}" for number in range(49_152)])


def _merged_lora(old: bytes) -> bytes:
    """Return the file with other bytes in every tensor of q and v."""
    new = bytearray(old)
    layout = gguf.read_layout(io.BytesIO(old), len(old))
    ends = dict(pairwise([*sorted(begin for _, begin in layout.tensors), len(old)]))
    for name, begin in layout.tensors:
        if name.endswith((".attn_q.weight", ".attn_v.weight")):
            new[begin : ends[begin]] = os.urandom(ends[begin] - begin)
    return bytes(new)


def _edited(old: bytes) -> bytes:
    """Return the file with one more entry of 200 bytes, at the beginning of its metadata."""
    layout = gguf.read_layout(io.BytesIO(old), len(old))
    (count,) = struct.unpack_from("<Q", old, 16)
    entry = struct.pack("<Q", 4) + b"note" + struct.pack("<IQ", 8, 176) + b"n" * 176
    head = old[:16] + struct.pack("<Q", count + 1) + entry + old[layout.entries[0] : layout.table]
    return head + bytes(-len(head) % 32) + old[min(begin for _, begin in layout.tensors) :]


def _cost(name: str, old: bytes, new: bytes, at_most: float) -> Row:
    recipe, _ = _delta(old, new)
    carried = recipe.new_bytes + len(recipe.to_bytes())
    return row(name, carried / 1e6, "MB", ("the whole file", len(new) / 1e6), at_most)


def _delta(old: bytes, new: bytes) -> tuple[Recipe, bytes]:
    base, base_digest = delta.chunks(io.BytesIO(old), len(old))
    chunks, digest = delta.chunks(io.BytesIO(new), len(new))
    recipe = delta.recipe(Sized(digest, len(new)), chunks, [(Sized(base_digest, len(old)), base)])
    fresh, at = [], 0
    for step in recipe.steps:
        if step.base is None:
            fresh.append(new[at : at + step.length])
        at += step.length
    return recipe, b"".join(fresh)


def _rebuilding(scratch: Path, old: bytes, new: bytes) -> list[Row]:
    """Rebuild and hash, beside reading and hashing the finished file; both from page cache."""
    recipe, fresh = _delta(old, new)
    files = {"recipe": recipe.to_bytes(), "old": old, "fresh": fresh, "new": new}
    for name, data in files.items():
        (scratch / name).write_bytes(data)
    arguments = [str(scratch / name) for name in ("recipe", "old", "fresh")]
    arguments += [recipe.output.digest, str(len(new))]
    took, memory = min(_rebuilt(arguments) for _ in range(3))
    straight = min(_hashed(scratch / "new") for _ in range(3))
    return [
        row("rebuild a delta", took, "s", ("read + SHA-256", straight), 1.5),
        row("rebuild a delta, peak RSS", memory, "MiB", ("limit", 150), 1.0),
    ]


def _rebuilt(arguments: list[str]) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _REBUILD, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    took, kib = done.stdout.split()
    return float(took), int(kib) / 1024


def _hashed(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.perf_counter() - began
