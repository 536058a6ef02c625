"""A bundle against a receipt carries what its receiver lacks, and no more than that needs."""

import os
from functools import partial
from pathlib import Path

import pytest

from appliance.bundle.format import delta
from appliance.bundle.format.delta import Sized
from appliance.bundle.format.rebuild import literal_path, made_against, rebuilt, recipe_path
from appliance.bundle.look.contents import Contents
from appliance.bundle.make import against
from appliance.bundle.make.against import Receipt, Thinned, read_receipt, read_receipt_file, thin
from appliance.bundle.media.medium import FolderMedium
from appliance.cache.blobs import BlobStore
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import (
    MalformedError,
    NotFoundError,
    SignatureError,
    StateUnusableError,
)
from tests.helpers.deltas import receipt, sized
from tests.helpers.gguf import llama_of
from tests.helpers.signing import Draft, Signer, blob_path, digest_of, flip, new_key

TENSORS = {name: os.urandom(1 << 20) for name in ("q", "k", "v", "o", "up")}
OLD = llama_of(TENSORS)
NEW = llama_of({**TENSORS, "q": os.urandom(1 << 20)})
OTHER = os.urandom(5 << 20)


def bundle(folder: Path, signer: Signer, weights: bytes = NEW, version: str = "1.1.0") -> Path:
    return Draft(weights, version=version).write(folder, signer)


def holding(*held: bytes) -> Receipt:
    return read_receipt(receipt([digest_of(data) for data in held]))


def sizes(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def old(tmp_path: Path, signer: Signer) -> Path:
    return bundle(tmp_path / "old", signer, OLD, "1.0.0")


@pytest.fixture
def new(tmp_path: Path, signer: Signer) -> Path:
    return bundle(tmp_path / "new", signer)


def test_new_weights_go_along_as_a_delta_that_the_receiver_rebuilds(
    tmp_path: Path, old: Path, new: Path
) -> None:
    small = {name for name, size in sizes(new).items() if size <= against.SMALL_BYTES}
    found = thin(new, holding(OLD), [old])
    assert [(made.blob, made.bases) for made in found.deltas] == [
        (sized(NEW), (sized(OLD).digest,))
    ]
    assert found.saved_bytes > len(NEW) * 0.79
    assert not blob_path(new, NEW).exists()
    assert small <= sizes(new).keys()
    store = BlobStore(tmp_path / "store", tmp_path / "incoming")
    store.init()
    base = store.add(OLD)
    medium, output = FolderMedium(new), sized(NEW)
    recipe = delta.parse(medium.read(recipe_path(output.digest), 1 << 20), output)
    fresh = partial(medium.open, literal_path(output.digest))
    make = partial(rebuilt, recipe, {base: store.path(base)}, fresh)
    store.fetch(make, output.digest, output.size)
    store.admit([output.digest])
    assert store.path(output.digest).read_bytes() == NEW


def test_what_the_receiver_holds_is_left_out(new: Path) -> None:
    found = thin(new, holding(NEW), [])
    assert found == Thinned((sized(NEW),), ())
    assert found.saved_bytes == len(NEW)
    assert not blob_path(new, NEW).exists()
    assert not (new / "deltas").exists()


def test_small_blobs_go_along_whole_whatever_is_held(tmp_path: Path, signer: Signer) -> None:
    draft = Draft()
    folder = draft.write(tmp_path / "small", signer)
    before = sizes(folder)
    assert thin(folder, holding(*draft.blobs.values()), []) == Thinned((), ())
    after = sizes(folder)
    assert {**after, "bundle.json": 0} == {**before, "bundle.json": 0}


def test_the_hint_says_whose_receipt_it_was(new: Path, old: Path) -> None:
    path = new / "bundle.json"
    hint = wire.loads(path.read_bytes(), what="it")
    path.write_bytes(wire.dumps({**hint, "bytes": len(NEW)}))
    found = thin(new, holding(OLD), [old])
    hint = wire.loads(path.read_bytes(), what="it")
    assert made_against(hint) == "receipt 7 of box-1"
    assert hint["bytes"] == len(NEW) - found.saved_bytes < len(NEW) * 0.21


@pytest.mark.parametrize("place", ["blobs/sha256/{}", "store/blobs/sha256/{}", "sha256-{}"])
def test_a_base_is_found_in_bundles_stores_and_caches(
    tmp_path: Path, new: Path, place: str
) -> None:
    path = tmp_path / "somewhere" / place.format(digest_of(OLD).removeprefix("sha256:"))
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD)
    assert len(thin(new, holding(OLD), [tmp_path / "nowhere", tmp_path / "somewhere"]).deltas) == 1


def test_a_blob_of_the_bundle_itself_may_be_the_base(new: Path) -> None:
    blob_path(new, OLD).write_bytes(OLD)
    found = thin(new, holding(OLD), [])
    assert found.left_out == (sized(OLD),)
    assert [made.bases for made in found.deltas] == [(sized(OLD).digest,)]


def test_without_a_base_here_or_likeness_the_whole_goes_along(
    tmp_path: Path, new: Path, old: Path
) -> None:
    assert thin(new, holding(OLD), []).deltas == ()  # held there, not here
    assert thin(new, holding(OTHER), [old]).deltas == ()  # here, not held there
    (tmp_path / f"sha256-{digest_of(OTHER)[7:]}").write_bytes(OTHER)
    assert thin(new, holding(OTHER), [tmp_path]).deltas == ()  # held, and nothing alike
    assert blob_path(new, NEW).read_bytes() == NEW
    assert not (new / "deltas").exists()


def test_a_base_with_other_bytes_than_its_name_says_is_not_used(new: Path, old: Path) -> None:
    flip(blob_path(old, OLD))
    assert thin(new, holding(OLD), [old]).deltas == ()
    assert blob_path(new, NEW).exists()


def test_a_delta_that_saves_little_is_not_worth_a_dependency(
    tmp_path: Path, old: Path, signer: Signer
) -> None:
    changed = {name: os.urandom(1 << 20) for name in TENSORS}
    other = bundle(tmp_path / "other", signer, llama_of({**changed, "tail": bytes(100_000)}))
    assert thin(other, holding(OLD), [old]).deltas == ()


def test_a_kill_in_between_leaves_a_bundle_that_is_whole(
    new: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            thin(new, holding(OLD), [old])
    assert blob_path(new, NEW).read_bytes() == NEW
    assert len(thin(new, holding(OLD), [old]).deltas) == 1


def test_a_bundle_in_volumes_is_not_thinned(new: Path) -> None:
    blob_path(new, NEW).rename(blob_path(new, NEW).with_suffix(".000"))
    with pytest.raises(StateUnusableError, match="split into volumes already"):
        thin(new, holding(OLD), [])


def test_contents_say_how_a_blob_comes(new: Path, old: Path) -> None:
    thin(new, holding(OLD), [old])
    contents = Contents(new)
    (item,) = contents.items()
    weights = item.blobs[-1]
    assert contents.size(weights.digest) is None
    recipe = contents.recipe(weights)
    assert recipe is not None
    assert recipe.bases == (Sized(Digest(digest_of(OLD)), len(OLD)),)


def test_a_receipt_is_checked_by_the_key_that_somebody_vouches_for(tmp_path: Path) -> None:
    key = new_key()
    data = receipt([digest_of(OLD)], key)
    assert read_receipt(data, key.public) == Receipt(
        "box-1", key.public, 7, frozenset({Digest(digest_of(OLD))}), checked=True
    )
    assert not read_receipt(data).checked
    with pytest.raises(SignatureError):
        read_receipt(data, new_key().public)
    with pytest.raises(SignatureError):  # it names a key that did not sign it
        read_receipt(receipt([], key, nodeKey=new_key().public))
    assert read_receipt(receipt([], node="\x1b[2J")).node == "\\x1b[2J"
    with pytest.raises(NotFoundError):
        read_receipt_file(tmp_path / "nowhere")


def test_a_receipt_may_list_thousands_of_blobs_and_has_an_end() -> None:
    many = [f"sha256:{number:064x}" for number in range(8000)]
    assert len(read_receipt(receipt(many)).held) == 8000
    with pytest.raises(MalformedError, match="more than"):
        read_receipt(receipt(many * 2))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"payload":1,"payloadType":"x","signatures":[]}',
        b'{"payload":"!","payloadType":"x","signatures":[]}',
        b'{"payload":"bm8=","payloadType":"x","signatures":[]}',
        receipt([], node=None),
        receipt([], seq="7"),
        receipt([], store="all"),
        receipt(["sha256:../../etc/passwd"]),
    ],
)
def test_what_is_no_receipt_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_receipt(data)
