"""What is held besides models: the newest two versions of each line, and their blobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cache import artefacts, roots
from appliance.core.artefact import HeldArtefact, HeldFile
from appliance.core.ids import Digest
from appliance.ledger.db import Ledger


def held(version: str, name: str = "k3s", digit: str = "0") -> HeldArtefact:
    digest = Digest(f"sha256:{digit * 64}")
    file = HeldFile("k3s", Digest("sha256:" + "f" * 64), 7)
    return HeldArtefact(
        path=f"files/k3s/{name}/{version}",
        line=f"files/k3s/{name}",
        manifest=digest,
        manifest_bytes=3,
        files=(file,),
        blobs={digest: 3, file.digest: file.size},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def add(ledger: Ledger, one: HeldArtefact) -> bool:
    return ledger.record(lambda db: artefacts.add(db, one, "now")).result()


def test_the_newest_two_of_a_line_stay(ledger: Ledger) -> None:
    for number in range(4):
        assert add(ledger, held(f"1.{number}", digit=str(number)))
    assert add(ledger, held("9", "other", "9"))
    paths = [one.path for one in ledger.read(artefacts.everything)]
    assert paths == ["files/k3s/k3s/1.2", "files/k3s/k3s/1.3", "files/k3s/other/9"]


def test_what_is_there_is_not_added_again(ledger: Ledger) -> None:
    assert add(ledger, held("1"))
    assert not add(ledger, held("1"))
    assert add(ledger, held("1", digit="1")), "the same name with other content replaces it"
    (one,) = ledger.read(artefacts.everything)
    assert one == held("1", digit="1")


def test_their_blobs_belong_to_somebody(ledger: Ledger) -> None:
    add(ledger, held("1"))
    (root,) = ledger.read(roots.all_roots)
    assert root.reference == "files/k3s/k3s/1"
    assert root.stays
    assert root.own_blobs == held("1").blobs


def test_the_newest_below_a_path(ledger: Ledger) -> None:
    assert ledger.read(lambda db: artefacts.newest(db, "files/k3s/")) is None
    add(ledger, held("2"))
    add(ledger, held("1", digit="1"))
    found = ledger.read(lambda db: artefacts.newest(db, "files/k3s/"))
    assert found is not None
    assert found.path == "files/k3s/k3s/1"


def test_what_comes_again_is_the_newest_again(ledger: Ledger) -> None:
    for version in (
        "1",
        "2",
        "3",
        "1",
        "3",
    ):  # an older bundle that is still listed came in between
        add(ledger, held(version, digit=version))
    newest = ledger.read(lambda db: artefacts.newest(db, "files/k3s/"))
    assert newest is not None
    assert newest.path == "files/k3s/k3s/3"
