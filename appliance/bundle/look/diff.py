"""`bundle diff`: what a second bundle brings beside a first one, or beside a node's receipt.

Read without believing either. Bytes are counted twice: by blob, as an import copies them, and by
chunk, as a delta would carry them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from appliance.bundle.format import delta
from appliance.bundle.format.delta import Chunk, Sized
from appliance.bundle.look.contents import Blob, Contents, Item
from appliance.bundle.make.against import SMALL_BYTES, read_receipt_file
from appliance.core.ids import Digest
from appliance.core.plain import plain
from appliance.errors import ApplianceError

_VERSION_AT = {"models": 3, "local": 2, "images": 2, "files": 3, "boms": 2}
"""Which part of a path is the version: two that differ in it alone are the same thing."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared."""

    name: str
    items: Mapping[tuple[str, ...], Item]
    held: frozenset[Digest]
    contents: Contents | None


def open_side(path: Path) -> Side:
    """Return what a bundle's folder or a receipt's file holds.

    Raises:
        NotFoundError: there is neither.
        RefusedError: it can be read as neither.
    """
    if path.is_dir():
        contents = Contents(path)
        items = {_thing(item.path): item for item in contents.items()}
        held = frozenset(blob.digest for item in items.values() for blob in item.all_blobs)
        return Side(f"{contents.name} {contents.version}", items, held, contents)
    receipt = read_receipt_file(path)
    return Side(f"receipt {receipt.seq} of {receipt.node}", {}, receipt.held, None)


def diff(old: Side, new: Side) -> dict[str, Any]:
    """Return what is new, changed and gone, as plain JSON data.

    A receipt has blobs and no names: beside it a thing is new unless all of it is held, and nothing
    is ever gone.
    """
    rows = [_row(old, new, item) for item in new.items.values()]
    gone = [_gone(new, item) for thing, item in old.items.items() if thing not in new.items]
    return {
        "old": old.name,
        "new": new.name,
        "items": [*rows, *gone],
        "bytes": {
            "all": _sum(blob for item in new.items.values() for blob in item.all_blobs),
            "by_blob": _sum(
                blob
                for item in new.items.values()
                for blob in item.all_blobs
                if blob.digest not in old.held
            ),
            "by_chunk": sum(row["by_chunk"] for row in rows),
        },
    }


def _row(old: Side, new: Side, item: Item) -> dict[str, Any]:
    before = old.items.get(_thing(item.path))
    fresh = [blob for blob in item.all_blobs if blob.digest not in old.held]
    if before is not None:
        what = "same" if before.digest == item.digest else "changed"
    else:
        what = "new" if fresh or old.contents is not None else "held"
    return {
        "path": plain(item.path),
        "what": what,
        "before": None if before is None else plain(before.path),
        "bytes": _sum(item.all_blobs),
        "by_blob": _sum(fresh),
        "by_chunk": sum(_new_bytes(blob, before, old, new) for blob in fresh),
    }


def _gone(new: Side, item: Item) -> dict[str, Any]:
    lost = [blob for blob in item.all_blobs if blob.digest not in new.held]
    facts = {"path": plain(item.path), "what": "gone", "before": plain(item.path)}
    return {**facts, "bytes": _sum(lost), "by_blob": 0, "by_chunk": 0}


def _new_bytes(blob: Blob, before: Item | None, old: Side, new: Side) -> int:
    """Return how many bytes of a blob are in none of those that it took the place of."""
    if blob.size <= SMALL_BYTES or new.contents is None:
        return blob.size
    try:
        recipe = new.contents.recipe(blob)
        if recipe is not None and all(base.digest in old.held for base in recipe.bases):
            return recipe.new_bytes
        chunks = _chunks(new.contents, blob)
        if chunks is None or before is None or old.contents is None:
            return blob.size
        bases = []
        for other in sorted(before.blobs, key=lambda one: -one.size)[: delta.MAX_BASES]:
            theirs = _chunks(old.contents, other) if other.size > SMALL_BYTES else None
            if theirs is not None:
                bases.append((Sized(other.digest, other.size), theirs))
        return delta.recipe(Sized(blob.digest, blob.size), chunks, bases).new_bytes
    except ApplianceError:
        return blob.size  # what cannot be read has to be brought again


def _chunks(contents: Contents, blob: Blob) -> list[Chunk] | None:
    opened = contents.open(blob.digest)
    if opened is None:
        return None
    file: BinaryIO = opened[0]
    with file:
        return delta.chunks(file, opened[1])[0]


def _thing(path: str) -> tuple[str, ...]:
    parts = path.split("/")
    at = _VERSION_AT.get(parts[0], len(parts))
    return (*parts[:at], *parts[at + 1 :])


def _sum(blobs: Iterable[Blob]) -> int:
    return sum({blob.digest: blob.size for blob in blobs}.values())
