"""Bundles: what an import costs above moving the bytes, in time, disk and memory.

4 GiB of bytes that do not compress; ``BIG=1`` takes 32 GiB.
"""

import contextlib
import datetime
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Self

from appliance.bundle.make import build as builder
from appliance.core.ids import Digest
from appliance.trust import metadata
from appliance.trust.repository import NewTarget, Repository
from appliance.trust.store import TrustStore
from benchmarks import deltas, scrub
from benchmarks.measure import Row, at_least, limit, timed
from tests.helpers.gguf import small_llama

ROOT = Path(__file__).parent.parent
_MIB = 1 << 20
_BYTES = (32 if os.environ.get("BIG") else 4) << 30
_RUNS = 3
_ORG = "bench"


def run() -> list[Row]:
    """Measure everything; takes some four minutes."""
    scratch = Path(tempfile.mkdtemp(prefix="appliance-bench-", dir=os.environ.get("BENCH_DIR")))
    try:
        repository = Repository.init_solo(scratch / "keys", _ORG, _now())
        bundle = _bundle(scratch, repository)
        rows = [*_imports(scratch, bundle), _metadata(scratch)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [*rows, *deltas.run(), *scrub.run()]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _bundle(scratch: Path, repository: Repository) -> Path:
    """Build a bundle around one large model."""
    with (scratch / "model.gguf").open("wb") as file:
        file.write(small_llama(b""))
        for _ in range(_BYTES // (16 * _MIB)):
            file.write(os.urandom(16 * _MIB))
    definition = scratch / "big.yaml"
    definition.write_text(
        "apiVersion: edge-appliance.dev/v1alpha1\nkind: BundleDefinition\nmetadata: {name: big}\n"
        "spec:\n  version: 1.0.0\n  models:\n"
        f"    - {{name: big, version: 1.0.0, publisher: {_ORG}, licence: MIT,\n"
        "       variants: [{name: Q4_0, source: {file: model.gguf}}]}\n"
    )
    builder.lock(builder.read_definition(definition), scratch / "cache")
    read = builder.read_definition(definition)
    built = builder.build(read, scratch / "bundle", repository, scratch / "cache", _now())
    (scratch / "model.gguf").unlink()
    return built.folder


def _imports(scratch: Path, bundle: Path) -> list[Row]:
    blobs = sorted((bundle / "blobs" / "sha256").iterdir())
    total = sum(blob.stat().st_size for blob in blobs)
    bare, ours, extra, again = [], [], [], []
    for number in range(_RUNS):
        bare.append(total / timed(partial(_bare, scratch / "copies", blobs)) / _MIB)
        shutil.rmtree(scratch / "copies")
        state = _node(scratch / f"node-{number}", scratch)
        with DiskWatch(state) as watch:
            ours.append(total / timed(partial(_import, state, bundle)) / _MIB)
        extra.append((watch.most - total) / _MIB)
        again.append(timed(partial(_import, state, bundle)))
        shutil.rmtree(state)
    rows = [
        _rate("import", ours, "bare copy + SHA-256 + fsync", bare, 0.8),
        limit("import, disk above the new bytes", max(extra), "MiB", 64),
        limit("import, most memory (RSS)", _most_memory_mib(), "MiB", 150),
        limit("import of the same bundle again", statistics.median(again), "s", 2),
    ]
    if shutil.which("skopeo"):
        copied = [total / timed(lambda: _skopeo(scratch, bundle)) / _MIB]
        rows.insert(1, _rate("import", ours, "skopeo copy oci: oci:", copied, 2.0))
    return rows


def _rate(name: str, ours: list[float], who: str, theirs: list[float], least: float) -> Row:
    reference = (who, statistics.median(theirs))
    return at_least(name, statistics.median(ours), "MiB/s", reference, least)


def _bare(target: Path, blobs: list[Path]) -> None:
    program = [sys.executable, "-m", "benchmarks.reference.copy_hash", str(target)]
    subprocess.run([*program, *map(str, blobs)], check=True, cwd=ROOT)


def _import(state: Path, bundle: Path) -> None:
    _appliance("bundle", "import", str(bundle), "--state-dir", str(state), "--json")


def _node(state: Path, scratch: Path) -> Path:
    root = scratch / "keys" / "metadata" / "1.root.json"
    _appliance("node", "init", "--name", "bench", "--root", str(root), "--state-dir", str(state))
    return state


def _appliance(*arguments: str) -> None:
    command = [sys.executable, "-m", "appliance", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def _most_memory_mib() -> float:
    """Return the most that any process of this run, all of them ours or smaller, has had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _skopeo(scratch: Path, bundle: Path) -> None:
    target = scratch / "skopeo"
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci:{bundle}:big:1.0.0-Q4_0", f"oci:{target}:it"],
        check=True,
    )
    subprocess.run(["sync", "-f", scratch], check=True)
    shutil.rmtree(target)


class DiskWatch:
    """The most space that was taken while the block ran, above what was taken before."""

    def __init__(self, folder: Path) -> None:
        self.most = 0
        self._folder = folder
        self._before = self._taken()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, self._taken() - self._before)

    def _taken(self) -> int:
        """Return the bytes of all blocks below the folder; a file that is gone by now counts 0."""
        taken = 0
        for path in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                taken += path.lstat().st_blocks * 512
        return taken


def _metadata(scratch: Path) -> Row:
    """Verify the metadata of a bundle with a thousand artefacts, as an import does first."""
    repository = Repository.init_solo(scratch / "many", _ORG, _now())
    targets = [
        NewTarget(f"models/{_ORG}/model-{n}/1.0.0/Q4_0", _digest(n), 1000, "application/json")
        for n in range(1000)
    ]
    files = dict(repository.publish(targets, _now()).files)
    trust = TrustStore(scratch / "tuf")
    trust.init(files["1.root.json"])

    def verify() -> None:
        metadata.refresh(trust.root(), None, lambda name, _cap: files[name], _now())

    seconds = statistics.median(timed(verify) for _ in range(10))
    return limit("verify metadata of 1,000 artefacts", seconds * 1000, "ms", 100)


def _digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")
