"""A key of the hub is stolen: what its thief can do, what it cannot, and how a stick heals it."""

import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.errors import SignatureError
from appliance.kit.clock import rfc3339
from appliance.ledger import chain, meta, streams
from appliance.ledger.streams import Stream
from appliance.node import desired
from appliance.trust.envelope import Slot
from tests.attacks.attack import (
    ACCEPTED,
    DAY,
    DIRECTOR,
    HARMED,
    HELD,
    NOW,
    SYNC,
    Attempt,
    Scene,
    Verdict,
    director,
    good,
    verdict_of,
)
from tests.attacks.attack import SIGNER as ORGANISATION
from tests.attacks.on_envelopes import answer, asked, saying, telling, word
from tests.attacks.on_keys import other
from tests.attacks.on_sync import ALL_NUMBERS, acking, told
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import small_llama
from tests.helpers.importing import audit, names, small_node
from tests.helpers.models import deployment, wire_deployment
from tests.helpers.signing import ISSUED, digest_of, new_key

NEW_DIRECTOR, NEW_SYNC = new_key(), new_key()


class Site:
    """A node with two listed versions of a model, and local staff with a word of their own."""

    def __init__(self, folder: Path) -> None:
        self.clock = ScriptedClock(utc=NOW)
        folder.mkdir()
        self.scene = Scene(folder, small_node(folder / "node", ORGANISATION, self.clock))
        self.node, self.ledger = self.scene.node, self.scene.node.ledger
        self.old, self.new = good(), other()
        self.scene.took(self.old)
        self.scene.took(self.new, versions=(2, 2, 2), also=self.old.listed())
        local = partial(desired.apply_locally, document=deployment("ours"), by="me", at="now")
        self.ledger.record(local).result()

    def tries(self, attempt: Attempt) -> Verdict:
        return verdict_of(self.node, attempt)

    def says(self, *models: str, **how: Any) -> Verdict:
        """Have somebody with the director's key, or ``key``, name what is to run."""
        documents = [wire_deployment(f"theirs-{n}", m) for n, m in enumerate(models)]
        key = how.pop("key", DIRECTOR)
        issued = self.clock.utc()
        data = self.scene.sealed(word(documents=documents, **how), key=key, issued=issued)
        return self.tries(saying(data))

    def heal(self, **how: Any) -> None:
        """Bring the bundle in which offline keys name others for the hub."""
        healing = good(small_llama(b"a third"), version="3.0.0")
        keys, sync = [NEW_DIRECTOR.public], [NEW_SYNC.public]
        healing.director = director(2, keys=keys, sync=sync)
        listed = {**self.old.listed(), **self.new.listed()}
        self.scene.took(healing, versions=(3, 3, 3), also=listed, **how)

    def in_force(self) -> list[str]:
        found = self.ledger.read(desired.in_force)
        return sorted(d.document.name for d in found.deployments)

    def runs(self) -> str:
        """Return the model that the fleet's word names."""
        (document,) = self.ledger.read(desired.fleet).documents
        return str(document.to_wire()["spec"]["model"])

    def codes(self) -> list[str]:
        kinds = ("fleet-refused", "ack-refused", "time-refused")
        return [r["body"]["code"] for r in audit(self.node) if r["kind"] in kinds]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    yield made
    made.node.close()


def test_the_directors_thief_chooses_among_what_is_listed_until_a_stick_names_another(
    site: Site,
) -> None:
    listed, unlisted = digest_of(site.old.blobs["manifest"]), digest_of(b"mine")
    assert site.says(f"small@{listed}", generation=5) == ACCEPTED, "an old version, still listed"
    assert site.runs() == f"small@{listed}"
    assert site.says(f"small@{unlisted}", generation=6) == HELD
    assert site.says("small", generation=4) == 30
    assert site.says("small", generation=5) == 31
    assert site.says("small", generation=6, directorEpoch=2) == HELD, "nobody named it so"
    assert site.says(generation=ALL_NUMBERS) == ACCEPTED, "it ends what the fleet asked for"
    assert site.in_force() == ["ours"], "and not what the site did"
    assert site.codes() == ["replay", "equivocation"]
    held = names(site.node)

    site.heal()
    assert site.says("small", generation=ALL_NUMBERS) == 20, "the key is no key any more"
    assert site.says("small", generation=7, directorEpoch=2) == 20
    assert site.says("small", generation=7, key=NEW_DIRECTOR) == 29, "nor is the epoch"
    assert site.says("small", generation=7, key=NEW_DIRECTOR, directorEpoch=2) == ACCEPTED
    assert (site.in_force(), site.runs()) == (["ours", "theirs-0"], "small")
    assert set(held) <= set(names(site.node))
    assert site.codes() == ["replay", "equivocation", "signature", "signature", "revoked"]


def test_a_director_cannot_be_its_own_successor(site: Site) -> None:
    """Whoever holds the hub's key cannot name the next: that takes the offline keys."""
    mine = other("3.0.0")
    mine.director = director(2)
    folder = site.scene.bundle(mine, (3, 3, 3), by={"targets": [DIRECTOR], "snapshot": [DIRECTOR]})
    with pytest.raises(SignatureError, match="not signed by enough"):
        site.node.importer.run(folder, "a test")
    found = site.node.trust.director()
    assert found is not None
    assert found.epoch == 1


def test_the_sync_keys_thief_frees_copies_and_nothing_else(site: Site) -> None:
    before = site.ledger.read(chain.head)
    assert site.tries(acking(told(site.scene))) == HARMED, "it can free the queue's copy"
    freed = site.ledger.read(partial(streams.position, stream=Stream.AUDIT)).acked_upto
    assert freed > 0
    assert site.ledger.read(chain.head).seq >= before.seq, "what happened is still counted"
    assert site.says("small", generation=9, key=SYNC) == 20
    assert site.in_force() == ["ours"]

    stolen = answer(site.scene, asked(site.scene), ISSUED + 11_000 * DAY)
    assert site.tries(telling(stolen)) == ACCEPTED
    pushed = site.ledger.read(meta.floor)
    assert pushed == ISSUED + 400 * DAY
    assert site.says("small", generation=9) == 21, "a word of today looks expired"

    site.heal()  # signed for 180 days, and not refused as expired
    assert site.ledger.read(meta.floor) == ISSUED
    assert site.says("small", generation=9, key=NEW_DIRECTOR, directorEpoch=2) == ACCEPTED
    body = {"nonce": asked(site.scene), "time": rfc3339(NOW)}
    assert site.tries(telling(site.scene.sealed(body, Slot.TIME, SYNC))) == 20
    assert site.tries(telling(site.scene.sealed(body, Slot.TIME, NEW_SYNC))) == ACCEPTED


def test_a_thief_of_both_keys_is_healed_by_one_stick_a_year_later(site: Site) -> None:
    assert site.says("small", generation=ALL_NUMBERS) == ACCEPTED
    for years in (30, 60):
        stolen = answer(site.scene, asked(site.scene), ISSUED + years * 365 * DAY)
        assert site.tries(telling(stolen)) == ACCEPTED
    site.clock.time = NOW + datetime.timedelta(days=365)
    site.heal(issued=site.clock.utc() - DAY)
    assert site.says("small", generation=1, key=NEW_DIRECTOR, directorEpoch=2) == ACCEPTED
    assert site.in_force() == ["ours", "theirs-0"]
    assert wire.dumps(audit(site.node))  # all of it can be told
