"""An import from deltas: what is here and what is new make what was signed, or nothing."""

import os
from pathlib import Path

import pytest

from appliance.bundle.format import rebuild
from appliance.bundle.make.against import read_receipt, thin
from appliance.bundle.make.split import split
from appliance.core.ids import Digest
from tests.helpers.deltas import receipt
from tests.helpers.gguf import small_llama
from tests.helpers.importing import imported, interrupted, keep_house, names, refused
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Signer, digest_of, flip

pytestmark = pytest.mark.slow


MIB = 1 << 20
_OLD = os.urandom(14 * MIB)
_NEW = _OLD[: 4 * MIB] + os.urandom(2 * MIB) + _OLD[6 * MIB :]
BOTH = ["small:1.0.0-Q4_0", "small:2.0.0-Q4_0"]


class Delta:
    """A node that has one version, and a bundle of the next that is a delta to it."""

    def __init__(self, box: Node, signer: Signer, folder: Path) -> None:
        self.old, self.new = Draft(small_llama(_OLD)), Draft(small_llama(_NEW), version="2.0.0")
        whole = self.old.write(folder / "old", signer)
        imported(box, whole)
        self.folder = self.new.write(folder / "new", signer, (2, 2, 2), also=self.old.listed())
        thin(self.folder, read_receipt(receipt(box.store.blobs.all())), [whole])
        self.base = box.store.blobs.path(Digest(digest_of(self.old.weights)))
        self.blob = Digest(digest_of(self.new.weights))


@pytest.fixture
def delta(box: Node, signer: Signer, tmp_path: Path) -> Delta:
    return Delta(box, signer, tmp_path)


def test_what_is_here_and_what_is_new_make_what_was_signed(box: Node, delta: Delta) -> None:
    assert sum(p.stat().st_size for p in delta.folder.rglob("*")) < 7 * MIB
    imported(box, delta.folder)
    assert names(box) == BOTH
    assert box.store.blobs.path(delta.blob).read_bytes() == delta.new.weights


def test_a_node_without_the_base_says_which_it_needs(box: Node, delta: Delta) -> None:
    delta.base.unlink()
    error = interrupted(box, delta.folder, 23)
    assert f"is a delta to {digest_of(delta.old.weights)}, which is not here" in str(error)
    assert "receipt 7 of box-1" in str(error)


def test_a_base_that_is_damaged_is_put_away(box: Node, delta: Delta) -> None:
    flip(delta.base, 13 * MIB)
    away = list[Digest]()
    keep_house(box, quarantine=away.append)
    refused(box, delta.folder, 26, commits=True)
    assert away == [digest_of(delta.old.weights)]


def test_a_hostile_delta_is_refused_and_accuses_nobody(box: Node, delta: Delta) -> None:
    flip(delta.folder / rebuild.literal_path(delta.blob))
    away = list[Digest]()
    keep_house(box, quarantine=away.append)
    refused(box, delta.folder, 26, commits=True)
    assert away == []


def test_a_recipe_that_is_none(box: Node, delta: Delta) -> None:
    (delta.folder / rebuild.recipe_path(delta.blob)).write_text("{}")
    refused(box, delta.folder, 27, commits=True)


def test_what_was_left_out_and_is_not_here(box: Node, delta: Delta) -> None:
    for path in (delta.folder / "deltas").iterdir():
        path.unlink()
    assert "it was left out" in str(interrupted(box, delta.folder, 23))


def test_a_delta_in_volumes(box: Node, delta: Delta, tmp_path: Path) -> None:
    volumes = split(delta.folder, tmp_path / "out", part_bytes=MIB, volume_bytes=4 * MIB)
    for volume in volumes[:-1]:
        assert "goes on from here" in str(interrupted(box, volume, 23).hint)
    imported(box, volumes[-1])
    assert names(box) == BOTH
