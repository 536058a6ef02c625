"""What the ledger remembers of trust follows ``tuf/``; answers to nonces are only its own."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from appliance.core import wire
from appliance.core.signedtime import SignedTime
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.ledger.migrations import migrations
from appliance.trust import metadata
from appliance.trust.documents import DIRECTOR_PATH, HUB_PATH, REVOKED_PATH
from appliance.trust.floor import SPAN
from appliance.trust.remembered import rederive
from appliance.trust.store import TrustStore
from tests.helpers.signing import ISSUED, Signer, director, hub, new_key, reading, revoked

SIGNER, SYNC = Signer.new(), new_key()
DAY = datetime.timedelta(days=1)


class Known:
    """A ``tuf/`` folder and a ledger beside it."""

    def __init__(self, folder: Path) -> None:
        self.trust, self.ledger = TrustStore(folder / "tuf"), Ledger(folder / "node.db")
        self.folder = folder
        self.signer = SIGNER
        self.root = 1
        self.trust.init(SIGNER.root_file())

    def accept(self, version: int, issued: datetime.datetime = ISSUED, **documents: bytes) -> None:
        roles = self.signer.metadata({}, (version,) * 3, issued=issued)
        verified = metadata.refresh(self.trust.root(), None, reading(roles), issued)
        paths = {"director": DIRECTOR_PATH, "hub": HUB_PATH, "revoked": REVOKED_PATH}
        self.trust.commit(verified, {paths[name]: data for name, data in documents.items()})
        rederive(self.trust, self.ledger)

    def rotate(self, *roles: str) -> None:
        self.root += 1
        new = self.signer.rotated(*roles)
        self.trust.add_root(self.root, new.root_file(self.root, by=self.signer.root))
        self.signer = new
        rederive(self.trust, self.ledger)

    def rows(self) -> set[SignedTime]:
        return set(self.ledger.read(meta.floor_rows))

    def floor(self) -> datetime.datetime | None:
        return self.ledger.read(meta.floor)

    def answer(self, at: datetime.datetime) -> None:
        self.ledger.record(lambda db: meta.add_online_time(db, SYNC.public, at)).result()

    def epochs(self) -> list[int]:
        kinds = ("director", "hub", "revoked")
        return self.ledger.read(lambda db: [meta.epoch(db, kind) for kind in kinds])


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Known]:
    made = Known(tmp_path)
    yield made
    made.ledger.close()


def mine(epoch: int = 1) -> bytes:
    """Return a director document that names the sync key of these tests."""
    return wire.dumps({**wire.loads(director(epoch), what="it"), "sync": [SYNC.public]})


def test_a_first_root_says_what_time_it_was(known: Known) -> None:
    assert known.floor() is None
    rederive(known.trust, known.ledger)
    assert known.rows() == {SignedTime(k.public, online=False, at=ISSUED) for k in SIGNER.root}
    assert known.floor() == ISSUED


def test_nothing_trusted_says_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    rederive(TrustStore(tmp_path / "tuf"), ledger)
    assert ledger.read(meta.floor_rows) == ()
    ledger.close()


def test_each_signer_has_a_row_by_its_use(known: Known) -> None:
    known.accept(1, ISSUED + DAY)
    assert known.rows() == {
        *(SignedTime(k.public, online=False, at=ISSUED) for k in SIGNER.root),
        *(SignedTime(k.public, online=False, at=ISSUED + DAY) for k in SIGNER.targets),
        *(SignedTime(k.public, online=True, at=ISSUED + DAY) for k in SIGNER.timestamp),
    }


def test_a_revoked_key_takes_back_what_it_said(known: Known) -> None:
    """Whoever stole the key of the targets signed a time that is years ahead."""
    known.accept(1, ISSUED + 2000 * DAY)
    assert known.floor() == ISSUED + 2000 * DAY
    known.rotate("targets")
    assert known.floor() == ISSUED + SPAN  # the timestamp's key said so too, and it is online
    known.rotate("timestamp")
    assert known.floor() == ISSUED
    known.rotate("root")
    assert {row.key for row in known.rows()} == {k.public for k in known.signer.root}


def test_a_key_that_stays_keeps_its_row_whatever_comes(known: Known) -> None:
    known.accept(1, ISSUED + 2 * DAY)
    before = known.rows()
    known.accept(2, ISSUED + DAY)
    assert known.rows() == before


def test_an_answer_to_a_nonce_stays_while_its_key_is_named(known: Known) -> None:
    known.accept(1, director=mine())
    known.answer(ISSUED + 100 * DAY)
    assert known.floor() == ISSUED + 100 * DAY
    known.accept(2, director=mine(2))
    known.rotate("timestamp", "targets", "root")
    assert known.floor() == ISSUED + 100 * DAY
    known.answer(ISSUED + 9000 * DAY)
    assert known.floor() == ISSUED + SPAN
    known.accept(3, director=director(3))
    assert known.floor() == ISSUED


def test_epochs_outlive_their_documents(known: Known) -> None:
    known.accept(1, director=director(3), hub=hub(4), revoked=revoked(epoch=5))
    assert known.epochs() == [3, 4, 5]
    known.accept(2, hub=hub(2))
    assert known.epochs() == [3, 4, 5]
    assert known.ledger.read(meta.org) == "acme"


def test_a_new_ledger_learns_all_but_the_answers(known: Known) -> None:
    known.accept(1, director=mine(3), hub=hub(4))
    before, epochs = known.rows(), known.epochs()
    known.answer(ISSUED + DAY)
    known.ledger.close()
    (known.folder / "node.db").unlink()
    known.ledger = Ledger(known.folder / "node.db")
    rederive(known.trust, known.ledger)
    assert (known.rows(), known.epochs()) == (before, epochs)
    assert known.ledger.read(meta.metadata_hash)


def test_the_floor_of_an_older_release_is_found_again(known: Known, tmp_path: Path) -> None:
    """Its single value named no key; what it was made of still lies in ``tuf/``."""
    known.accept(1, ISSUED + DAY)
    older = tmp_path / "older.db"
    database = Database(older)
    migrations.apply(database, stop_before="m005_floor")
    with database.conn:
        database.conn.execute("INSERT INTO meta VALUES ('floor', '2026-12-02T00:00:00Z')")
    database.close()
    ledger = Ledger(older)
    rederive(known.trust, ledger)
    assert ledger.read(meta.floor) == ISSUED + DAY
    ledger.close()
