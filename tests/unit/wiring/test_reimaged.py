"""A machine set up anew keeps its store, and believes nothing in it before it was hashed."""

import shutil
from pathlib import Path

import pytest

from appliance.cache import catalog, index
from appliance.cache.index import BlobState
from appliance.core.ids import NodeId
from appliance.node import identity
from appliance.wiring.core import open_node
from tests.helpers.organisation import Organisation
from tests.helpers.signing import flip

pytestmark = pytest.mark.slow


def states(state: Path) -> dict[str, BlobState]:
    with open_node(state) as core:
        return {d: row.state for d, row in core.ledger.read(index.rows).items()}


@pytest.fixture
def reimaged(tmp_path: Path, organisation: Organisation, small_bundle: Path) -> Path:
    """A new node on the store of an old one."""
    state = tmp_path / "node"
    old = identity.create(state, NodeId("box-1"), organisation.root)
    with open_node(state) as core:
        core.importer.run(small_bundle, "test")
    for name in ("identity", "tuf", "models"):
        shutil.rmtree(state / name)
    for path in state.glob("node.db*"):
        path.unlink()
    assert identity.create(state, NodeId("box-1"), organisation.root).key.public != old.key.public
    return state


def test_blobs_of_an_earlier_ledger_wait_to_be_hashed(reimaged: Path) -> None:
    found = states(reimaged)
    assert found
    assert set(found.values()) == {BlobState.RETURNED}


def test_an_import_hashes_what_is_here_and_copies_only_what_is_wrong(
    reimaged: Path, small_bundle: Path
) -> None:
    blobs = reimaged / "store" / "blobs" / "sha256"
    weights = max(blobs.iterdir(), key=lambda p: p.stat().st_size)
    good = weights.read_bytes()
    flip(weights)
    with open_node(reimaged) as core:
        done = core.importer.run(small_bundle, "test")
        assert done.copied_bytes == len(good)
        assert weights.read_bytes() == good
        assert [v.model for v in core.ledger.read(catalog.variants)] == ["small"]
    assert set(states(reimaged).values()) == {BlobState.OK}
    assert [p.name for p in (reimaged / "quarantine").rglob(f"*{weights.name}*")]


def test_a_store_that_is_as_it_was_is_not_copied_again(reimaged: Path, small_bundle: Path) -> None:
    with open_node(reimaged) as core:
        assert core.importer.run(small_bundle, "test").copied_bytes == 0
    assert set(states(reimaged).values()) == {BlobState.OK}
