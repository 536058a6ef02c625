"""The files that engines open, and the index that other tools read."""

from pathlib import Path

import pytest

from appliance.cache.store import ModelStore
from appliance.core import wire
from appliance.core.model import Variant
from appliance.errors import NotFoundError, StateUnusableError
from tests.helpers.models import variant


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path)
    made.init()
    return made


def stored(store: ModelStore, name: str = "Q4_0", data: bytes = b"weights") -> Variant:
    return variant(name=name, weights=store.blobs.add(data), manifest=store.blobs.add(b"{}" + data))


def test_weights_are_a_link_to_the_blob_and_made_once(store: ModelStore, tmp_path: Path) -> None:
    it = stored(store)
    link = store.weights(it)
    assert link == tmp_path / "models/small/1.0.0/Q4_0/model.gguf"
    assert link.samefile(store.blobs.path(it.weights))
    assert not link.is_symlink()
    changed = link.parent.stat().st_mtime_ns
    assert store.weights(it) == link
    assert link.parent.stat().st_mtime_ns == changed


def test_a_link_to_something_else_is_replaced(store: ModelStore) -> None:
    old, new = stored(store, data=b"old"), stored(store, data=b"new")
    link = store.weights(old)
    assert store.weights(new) == link
    assert link.read_bytes() == b"new"
    link.unlink()
    link.write_bytes(b"what somebody put there")
    link.with_name(f".{link.name}.new").write_bytes(b"what a crash left there")
    assert store.weights(new).samefile(store.blobs.path(new.weights))
    assert [path.name for path in link.parent.iterdir()] == ["model.gguf"]


def test_weights_that_are_gone_are_asked_for(store: ModelStore) -> None:
    it = stored(store)
    store.blobs.path(it.weights).unlink()
    with pytest.raises(NotFoundError, match=r"small:1\.0\.0-Q4_0 are not in the store"):
        store.weights(it)


def test_a_folder_that_cannot_be_made_is_named(store: ModelStore, tmp_path: Path) -> None:
    it = stored(store)
    (tmp_path / "models" / "small").write_text("a file")
    with pytest.raises(StateUnusableError):
        store.weights(it)


def test_the_index_lists_what_the_catalogue_holds(store: ModelStore, tmp_path: Path) -> None:
    rows = [stored(store, "Q4_0"), stored(store, "Q8_0", b"others")]
    store.publish_index(rows)
    index = wire.loads((tmp_path / "store" / "index.json").read_bytes(), what="it")
    assert [
        (entry["annotations"]["org.opencontainers.image.ref.name"], entry["digest"], entry["size"])
        for entry in index["manifests"]
    ] == [
        ("small:1.0.0-Q4_0", rows[0].manifest, len(b"{}weights")),
        ("small:1.0.0-Q8_0", rows[1].manifest, len(b"{}others")),
    ]
    store.publish_index([])
    assert b'"manifests":[]' in (tmp_path / "store" / "index.json").read_bytes()
