"""Making a bundle thin: without what a receiver says it holds, and with deltas to it.

Runs where bundles are built. A receipt decides only what is left out, never what may run: a wrong
one makes a stick useless for its receiver, and nothing worse. Small blobs (manifests, configs,
bills of material, documents) always go along whole: a thin bundle can be read and judged alone.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.bundle.format import delta, rebuild
from appliance.bundle.format.delta import Chunk, Recipe, Sized
from appliance.bundle.format.modelpack import MAX_MANIFEST_BYTES
from appliance.core import tensors, wire
from appliance.core.ids import Digest, digest, hex_of
from appliance.core.plain import plain
from appliance.errors import MalformedError, NotFoundError, StateUnusableError
from appliance.kit.files import fsync_folder, make_folder, translated, write_durably
from appliance.trust import dsse
from appliance.trust.envelope import Slot

SMALL_BYTES = MAX_MANIFEST_BYTES
"""Blobs up to this size always go along whole."""
_MAX_RECEIPT_BYTES = 1 << 20
_MOST_BASES = 3
_WORTH = 0.9
"""A delta is kept when it has at most this share of the blob's bytes."""
_COPY_BYTES = 4 << 20

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a node says that it holds. ``checked``: by a key that the caller vouched for."""

    node: str
    node_key: str
    seq: int
    held: frozenset[Digest]
    checked: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """A blob that goes along as a delta."""

    blob: Sized
    bases: tuple[Digest, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Thinned:
    """What thinning a bundle changed."""

    left_out: tuple[Sized, ...]
    deltas: tuple[Delta, ...]

    @property
    def saved_bytes(self) -> int:
        """How many bytes need not be carried."""
        spared = sum(made.blob.size - made.bytes for made in self.deltas)
        return spared + sum(blob.size for blob in self.left_out)


def read_receipt(data: bytes, node_key: str | None = None) -> Receipt:
    """Read a node's receipt.

    Args:
        data: The envelope.
        node_key: The node's public key, if somebody knows it. Without, the receipt is held to the
            key that it names itself, which shows damage and proves nothing.

    Raises:
        MalformedError: it is not a receipt.
        SignatureError: another key signed it.
    """
    key = node_key or str(dsse.unverified(data, what="the receipt").get("nodeKey"))
    opened = dsse.verify(data, Slot.RECEIPT, {key}, what="the receipt", most=_MAX_RECEIPT_BYTES)
    found = wire.loads(opened.payload, what="the receipt")
    node, seq, held = (found.get(name) for name in ("node", "seq", "store"))
    if not isinstance(node, str) or not isinstance(seq, int) or not isinstance(held, list):
        raise MalformedError("the receipt does not say whose it is, its number, or what is held")
    try:
        digests = frozenset(digest(str(entry)) for entry in held)
    except ValueError as error:
        raise MalformedError(f"the receipt lists {error}") from error
    return Receipt(plain(node, 63), key, seq, digests, checked=node_key is not None)


def read_receipt_file(path: Path, node_key: str | None = None) -> Receipt:
    """Read a receipt from a file; see ``read_receipt``.

    Raises:
        NotFoundError: there is none.
    """
    try:
        with translated(f"reading {path}"), path.open("rb") as file:
            return read_receipt(file.read(_MAX_RECEIPT_BYTES + 1), node_key)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no receipt at {path}") from error


def thin(
    bundle: Path,
    receipt: Receipt,
    folders: Sequence[Path],
    told: Told = lambda _what, _done, _total: None,
) -> Thinned:
    """Leave out of a finished bundle what the receiver holds; turn what is like it into deltas.

    Crash-safe by its order: a blob goes only when its delta is on the disk.

    Args:
        bundle: The bundle's folder.
        receipt: The receiver's.
        folders: Where to look for blobs that the receiver holds: older bundles, stores, caches.
        told: Told what is looked at, the bytes done and the bytes in all.

    Raises:
        StateUnusableError: the bundle was split already, or cannot be written.
    """
    blobs = _large_blobs(bundle)
    held = _Shelf(_local(receipt.held, (bundle, *folders)))
    left_out, deltas, done = [], [], 0
    total = sum(blob.size for blob in blobs)
    for blob in blobs:
        path = bundle / "blobs" / "sha256" / hex_of(blob.digest)
        told(f"comparing {hex_of(blob.digest)[:12]}", done, total)
        if blob.digest in receipt.held:
            left_out.append(blob)
        elif (made := _delta(bundle, blob, path, held)) is not None:
            deltas.append(made)
        done += blob.size
    thinned = Thinned(tuple(left_out), tuple(deltas))
    _note(bundle, receipt, thinned.saved_bytes)
    with translated(f"thinning {bundle}"):
        for gone in (*left_out, *(made.blob for made in deltas)):
            (bundle / "blobs" / "sha256" / hex_of(gone.digest)).unlink()
        fsync_folder(bundle / "blobs" / "sha256")
    told("comparing", total, total)
    return thinned


def _large_blobs(bundle: Path) -> list[Sized]:
    folder = bundle / "blobs" / "sha256"
    if any(folder.glob("*.[0-9][0-9][0-9]")):
        raise StateUnusableError(
            f"{bundle} is split into volumes already", hint="thin a bundle before it is split"
        )
    found = ((path.name, path.stat().st_size) for path in sorted(folder.iterdir()))
    return [Sized(digest(f"sha256:{name}"), size) for name, size in found if size > SMALL_BYTES]


def _note(bundle: Path, receipt: Receipt, saved: int) -> None:
    """Write into the unsigned hint which receipt this is against, and how many bytes are left."""
    path = bundle / "bundle.json"
    hint = wire.loads(path.read_bytes(), what="bundle.json")
    hint["against"] = {"node": receipt.node, "seq": receipt.seq}
    if isinstance(hint.get("bytes"), int):
        hint["bytes"] = max(0, hint["bytes"] - saved)
    write_durably(path, wire.dumps(hint))


def _local(held: Iterable[Digest], folders: Sequence[Path]) -> dict[Digest, Path]:
    """Return which of the receiver's large blobs lie here, by the names that our folders use."""
    found = {}
    for held_digest in sorted(held):
        name = hex_of(held_digest)
        names = (f"blobs/sha256/{name}", f"store/blobs/sha256/{name}", f"sha256-{name}")
        paths = (folder / one for folder in folders for one in names)
        path = next((p for p in paths if p.is_file()), None)
        if path is not None and path.stat().st_size > SMALL_BYTES:
            found[held_digest] = path
    return found


@dataclass
class _Shelf:
    """The receiver's blobs that lie here. Headers are read of all, bodies of few and only once."""

    paths: Mapping[Digest, Path]
    _pieces: dict[Digest, list[tensors.Piece]] = field(default_factory=dict)
    _chunks: dict[Digest, list[Chunk] | None] = field(default_factory=dict)

    def likeliest(self, pieces: Sequence[tensors.Piece], size: int) -> list[Digest]:
        """Return the few that may share most with a new file, and enough to be worth it."""
        likeness = {one: delta.likeness(pieces, self._pieces_of(one)) for one in self.paths}
        worth = [one for one, shared in likeness.items() if shared >= size * (1 - _WORTH)]
        return sorted(worth, key=lambda one: (-likeness[one], one))[:_MOST_BASES]

    def chunks(self, one: Digest) -> list[Chunk] | None:
        """Return a blob's chunks; None when its bytes are not what its name says."""
        if one not in self._chunks:
            with self.paths[one].open("rb") as file:
                chunks, found = delta.chunks(file, os.fstat(file.fileno()).st_size)
            self._chunks[one] = chunks if found == one else None
        return self._chunks[one]

    def size(self, one: Digest) -> int:
        return self.paths[one].stat().st_size

    def _pieces_of(self, one: Digest) -> list[tensors.Piece]:
        if one not in self._pieces:
            with self.paths[one].open("rb") as file:
                self._pieces[one] = tensors.pieces(file, os.fstat(file.fileno()).st_size)
        return self._pieces[one]


def _delta(bundle: Path, blob: Sized, path: Path, held: _Shelf) -> Delta | None:
    with path.open("rb") as file:
        likeliest = held.likeliest(tensors.pieces(file, blob.size), blob.size)
        bases = [
            (Sized(one, held.size(one)), chunks)
            for one in likeliest
            if (chunks := held.chunks(one)) is not None
        ]
        if not bases:
            return None
        file.seek(0)
        chunks, _ = delta.chunks(file, blob.size)
        recipe = delta.recipe(blob, chunks, bases)
        data = recipe.to_bytes()
        cost = recipe.new_bytes + len(data)
        too_long = len(recipe.steps) > delta.MAX_STEPS or len(data) > delta.MAX_RECIPE_BYTES
        if too_long or cost > blob.size * _WORTH:
            return None
        make_folder(bundle / "deltas")
        with translated(f"writing the delta for {blob.digest}"):
            _write_new(file, recipe, bundle / rebuild.literal_path(blob.digest))
        write_durably(bundle / rebuild.recipe_path(blob.digest), data)
    return Delta(blob, tuple(base.digest for base in recipe.bases), cost)


def _write_new(source: BinaryIO, recipe: Recipe, target: Path) -> None:
    with target.open("wb") as out:
        at = 0
        for step in recipe.steps:
            if step.base is None:
                source.seek(at)
                _copy(source, out, step.length)
            at += step.length
        out.flush()
        os.fsync(out.fileno())


def _copy(source: BinaryIO, out: BinaryIO, count: int) -> None:
    while count:
        data = source.read(min(_COPY_BYTES, count))
        if not data:
            raise StateUnusableError("a file became shorter while it was read")
        out.write(data)
        count -= len(data)
