"""What a node's state folder holds, and imports that must leave it as it was."""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from appliance.cache import catalog
from appliance.core.model import Variant
from appliance.errors import ApplianceError
from appliance.kit.clock import Clock
from appliance.ledger import meta, streams
from appliance.ledger.streams import Stream
from tests.helpers.organisation import Node
from tests.helpers.signing import Signer

_OTHERS = {"incoming/.lock", "node.db", "node.db-wal", "node.db-shm"}


def small_node(state: Path, signer: Signer, clock: Clock) -> Node:
    """Return a node that trusts ``signer``, without the reserve: hundreds would fill a disk."""
    made = Node.create(state, signer.root_file(), clock)
    (state / "reserve").unlink()
    return made


@dataclass(frozen=True)
class Seen:
    """All that an import may change, apart from the audit stream."""

    files: dict[str, object]
    rows: list[Variant]
    floor: datetime.datetime | None

    @classmethod
    def of(cls, node: Node) -> "Seen":
        return cls(
            contents(node.state),
            node.ledger.read(catalog.variants),
            node.ledger.read(meta.floor),
        )

    def without_copies(self) -> tuple[dict[str, object], list[Variant]]:
        files, rows = self.without_trust()
        return {k: v for k, v in files.items() if not k.startswith("incoming/")}, rows

    def without_trust(self) -> tuple[dict[str, object], list[Variant]]:
        return {k: v for k, v in self.files.items() if not k.startswith("tuf/")}, self.rows


def contents(state: Path) -> dict[str, object]:
    """Return every path below a state folder but the ledger, with what is there."""
    found: dict[str, object] = {}
    for path in state.rglob("*"):
        name = str(path.relative_to(state))
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_dir():
            found[name] = "a folder"
        elif name not in _OTHERS:
            found[name] = path.read_bytes()
    return found


def audit(node: Node) -> list[dict[str, Any]]:
    """Return the audit records that wait in the outbox."""
    return [
        waiting.record
        for waiting in node.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 1000)))
    ]


def imported(node: Node, folder: Path) -> tuple[tuple[str, ...], int]:
    """Import a good bundle; return what it added and the bytes it copied."""
    found = node.importer.run(folder, "a test")
    return found.added, found.copied_bytes


def names(node: Node) -> list[str]:
    """Return what the catalogue holds."""
    return [row.reference for row in node.ledger.read(catalog.variants)]


def keep_house(node: Node, **changed: Any) -> None:
    """Give the importer of a node other surroundings."""
    parts = node.importer._parts
    house = replace(parts.housekeeping, **changed)
    node.importer._parts = replace(parts, housekeeping=house)


def interrupted(node: Node, folder: Path, code: int) -> ApplianceError:
    """Import what must stop with this exit status; check that only what was copied stays."""
    before = Seen.of(node)
    with pytest.raises(ApplianceError) as caught:
        node.importer.run(folder, "a test")
    assert caught.value.exit_code == code, f"{caught.value.code}: {caught.value}"
    assert Seen.of(node).without_copies() == before.without_copies()
    return caught.value


def refused(node: Node, folder: Path, code: int, *, commits: bool = False) -> ApplianceError:
    """Import what must be refused with this exit status; check that nothing of it stays.

    With ``commits`` the refusal comes after step 8, so the newer metadata and floor are kept.
    """
    before = Seen.of(node)
    with pytest.raises(ApplianceError) as caught:
        node.importer.run(folder, "a test")
    error, after = caught.value, Seen.of(node)
    assert error.exit_code == code, f"{error.code}: {error}"
    if commits:
        assert after.without_trust() == before.without_trust()
        assert (after.floor, after.files) != (before.floor, before.files)
    else:
        assert after == before
    assert audit(node)[-1]["kind"] == "import-refused"
    assert audit(node)[-1]["body"] == {"by": "a test", "code": error.code, "why": error.what}
    return error
