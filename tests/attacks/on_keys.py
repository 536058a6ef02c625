"""Attacks with keys and clocks, and by sheer length: steps 1 to 5 of an import."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.ledger import meta
from tests.attacks import defences as d
from tests.attacks.attack import (
    ACCEPTED,
    DAY,
    DIRECTOR,
    FELL,
    HARMED,
    HARMLESS,
    NOW,
    SIGNER,
    Attempt,
    Scene,
    attack,
    good,
    importing,
    issued,
    lasting,
    with_field,
)
from tests.helpers.gguf import small_llama
from tests.helpers.organisation import Node
from tests.helpers.signing import (
    ISSUED,
    LIFETIME,
    Draft,
    Publisher,
    SecondId,
    Signer,
    new_key,
    public,
)

HOUR = datetime.timedelta(hours=1)
PAD = "x" * (1 << 20)
FUTURE = ISSUED + 390 * DAY


def other(version: str = "2.0.0") -> Draft:
    return good(small_llama(b"other weights"), version=version)


def from_vendor(**more: Any) -> Draft:
    """Return a bundle whose model a vendor lists."""
    draft = good()
    draft.path = "models/vendor/small/1.0.0/Q4_0"
    draft.release["targets"] = [draft.path]
    draft.publisher = Publisher.new(**more)
    return draft


# --- step 1: what is read is bounded --------------------------------------------------------------


def endless(role: str, mebibytes: int) -> dict[str, Any]:
    return {"edit": {role: with_field("x-padding", PAD * mebibytes)}}


@attack("import 1", d.CAPS["root"], 27, row="root", kind="endless data")
def endless_root(s: Scene) -> Path:
    """The next root never ends."""
    return s.bundle(roots=[SIGNER.root_file(2, edit=with_field("x-padding", PAD))])


@attack("import 1", d.CAPS["timestamp"], 27, row="timestamp", kind="endless data")
def endless_timestamp(s: Scene) -> Path:
    """The timestamp never ends."""
    return s.bundle(**endless("timestamp", 1))


@attack("import 1", d.CAPS["snapshot"], 27, kind="endless data")
def endless_snapshot(s: Scene) -> Path:
    """The snapshot never ends."""
    return s.bundle(**endless("snapshot", 3))


@attack("import 1", d.CAPS["targets"], 27, row="targets", kind="endless data")
def endless_targets(s: Scene) -> Path:
    """The list of targets never ends."""
    return s.bundle(**endless("targets", 17))


@attack("import 1", d.CAPS["delegated"], 27, row="publisher", kind="endless data")
def endless_publisher(s: Scene) -> Path:
    """A publisher's list never ends."""
    return s.bundle(from_vendor(edit=with_field("x-padding", PAD * 5)))


@attack("import 1", d.HINT_CAP, 27, kind="endless data")
def endless_hint(s: Scene) -> Path:
    """The unsigned hint never ends."""
    draft = good()
    draft.hint = {"name": "small", "version": "1.0.0", "padding": PAD}
    return s.bundle(draft)


# --- step 2: roots --------------------------------------------------------------------------------


@attack("import 2", d.OLD_ROOT, 20, row="root", kind="wrong key")
def root_of_strangers(s: Scene) -> Path:
    """Strangers name themselves root."""
    stranger = Signer.new()
    return s.bundle(signer=stranger, roots=[stranger.root_file(2)])


@attack("import 2", d.OLD_ROOT, 20, row="root", kind="key compromise below threshold")
def root_by_one_of_two(s: Scene) -> Path:
    """A thief of one root key replaces all others."""
    thief = replace(Signer.new(), root=[SIGNER.root[0]])
    return s.bundle(signer=thief, roots=[thief.root_file(2)])


@attack("import 2", d.NEW_ROOT, 20, row="root", kind="wrong key")
def root_that_its_own_keys_do_not_sign(s: Scene) -> Path:
    """Root is handed to people who never took it."""
    absent = replace(SIGNER, root=[new_key(), new_key()])

    def hand_over(root: Any) -> None:
        root.roles["root"].keyids.clear()
        for key in absent.root:
            root.add_key(public(key), "root")

    return s.bundle(roots=[SIGNER.root_file(2, edit=hand_over)])


@attack("import 2", d.DISTINCT_KEYS, 27, row="root", kind="key compromise below threshold")
def root_with_one_key_under_two_ids(s: Scene) -> Path:
    """One person counts as two of the root's keys."""
    return _counting_twice(s, "root")


@attack("import 2", d.DISTINCT_KEYS, 27, row="targets", kind="key compromise below threshold")
def targets_with_one_key_under_two_ids(s: Scene) -> Path:
    """One person counts as two of the targets' keys."""
    return _counting_twice(s, "targets")


def _counting_twice(s: Scene, role: str) -> Path:
    key = getattr(SIGNER, role)[0]
    keys: dict[str, Any] = {role: [key, SecondId(key.private)]}
    twice = replace(SIGNER, **keys)
    return s.bundle(signer=twice, roots=[twice.root_file(2, by=SIGNER.root)])


@attack("import 2", d.NEXT_ROOT, 22, row="root", kind="rollback")
def root_from_before_a_theft(s: Scene) -> Path:
    """An old root is offered as the next, so that a stolen key counts again."""
    safe = SIGNER.rotated("timestamp")
    s.took(signer=safe, roots=[safe.root_file(2, by=SIGNER.root)])
    folder = s.bundle(versions=(2, 1, 1))
    (folder / "tuf" / "3.root.json").write_bytes(SIGNER.root_file(1))
    return folder


@attack("import 5", d.EXPIRY["root"], 21, row="root", kind="freeze", keeps=True)
def root_that_expired(s: Scene) -> Path:
    """The organisation is kept at a root whose time has passed."""
    return s.bundle(roots=[SIGNER.root_file(2, edit=lambda r: setattr(r, "expires", NOW - HOUR))])


# --- steps 3 and 4: keys that were replaced, and the clock ----------------------------------------


@attack(
    "import 3", d.FAST_FORWARD, ACCEPTED, row="timestamp", kind="fast-forward recovery", without=20
)
def versions_that_a_thief_used_up(s: Scene) -> Path:
    """Stolen keys signed version 100,000,000; after rotation the fleet goes on at version 1."""
    s.took(versions=(10**8, 10**8, 10**8))
    new = SIGNER.rotated("targets", "timestamp")
    new = replace(new, thresholds={"root": 2})  # one key is new for both roles
    return s.bundle(signer=new, roots=[new.root_file(2, by=SIGNER.root)])


@attack(
    "import 3", d.FLOOR_OF_KEY, ACCEPTED, row="timestamp", kind="fast-forward recovery",
    without=21, rests_on=(d.REDERIVED,),
)  # fmt: skip
def time_that_a_thief_pushed(s: Scene) -> Path:
    """A stolen timestamp key signed a time a year ahead; after rotation it counts no more."""
    s.took(edit={"timestamp": _pushed})
    new = SIGNER.rotated("timestamp")
    return s.bundle(versions=(2, 1, 1), signer=new, roots=[new.root_file(2, by=SIGNER.root)])


def _pushed(timestamp: Any) -> None:
    issued(FUTURE)(timestamp)
    timestamp.expires = FUTURE + LIFETIME


@attack("import 3", d.SIGNED["timestamp"], 20, row="timestamp", kind="wrong key")
def timestamp_by_a_key_that_was_replaced(s: Scene) -> Path:
    """A thief goes on with a timestamp key that the organisation has replaced."""
    safe = SIGNER.rotated("timestamp")
    s.took(signer=safe, roots=[safe.root_file(2, by=SIGNER.root)])
    return s.bundle(versions=(2, 1, 1))


@attack("import 4", d.CLOCK, 21, kind="freeze", rests_on=(d.EXPIRY["timestamp"],))
def clock_set_back(s: Scene) -> Path:
    """The clock is set to 1970, so that an expired bundle seems fresh."""
    s.took(other())
    s.at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return s.bundle(
        versions=(2, 2, 2), issued=ISSUED - DAY, edit=lasting("timestamp", ISSUED - HOUR)
    )


@attack("import 4", d.CLOCK, ACCEPTED, kind="freeze", without=21)
def clock_set_ahead(s: Scene) -> Path:
    """The clock is set to 2038, so that every bundle seems expired."""
    s.at = datetime.datetime(2038, 1, 19, tzinfo=datetime.UTC)
    return s.bundle()


@attack("import 4", d.REACH, HARMLESS, row="timestamp", kind="time", without=HARMED)
def time_pushed_beyond_400_days(s: Scene) -> Attempt:
    """The online timestamp key signs a time thirty years ahead."""
    far = ISSUED + 11_000 * DAY

    def push(timestamp: Any) -> None:
        issued(far)(timestamp)
        timestamp.expires = far + LIFETIME

    return _unmoved(importing(s.bundle(edit={"timestamp": push}), harm=_moved_far))


def _moved_far(node: Node) -> bool:
    reached = node.ledger.read(meta.floor)
    return reached is not None and reached > ISSUED + 401 * DAY


def _unmoved(attempt: Attempt) -> Attempt:
    return lambda node: HARMLESS if (ended := attempt(node)) == ACCEPTED else ended


# --- step 5: who signed ---------------------------------------------------------------------------


@attack("import 5", d.SIGNED["timestamp"], 20, row="timestamp", kind="wrong key")
def timestamp_by_a_stranger(s: Scene) -> Path:
    """A stranger says which snapshot is newest."""
    return s.bundle(by={"timestamp": [new_key()]})


@attack("import 5", d.SIGNED["timestamp"], 20, row="director", kind="wrong role")
def timestamp_by_the_director(s: Scene) -> Path:
    """The director says which snapshot is newest."""
    return s.bundle(by={"timestamp": [DIRECTOR]})


@attack("import 5", d.SIGNED["snapshot"], 20, row="timestamp", kind="wrong role")
def snapshot_by_the_timestamp_key(s: Scene) -> Path:
    """The timestamp key says which lists are in force."""
    return s.bundle(by={"snapshot": SIGNER.timestamp})


@attack("import 5", d.SIGNED["targets"], 20, row="timestamp", kind="wrong role")
def targets_by_the_timestamp_key(s: Scene) -> Path:
    """The timestamp key approves a model."""
    return s.bundle(by={"targets": SIGNER.timestamp})


@attack("import 5", d.SIGNED["targets"], 20, row="targets", kind="key compromise below threshold")
def targets_by_one_of_two(s: Scene) -> Path:
    """A thief of one targets key approves a model."""
    return s.bundle(by={"targets": SIGNER.targets[:1]})


@attack("import 5", d.SIGNED["targets"], 20, row="targets", kind="key compromise below threshold")
def targets_signed_twice_by_one_key(s: Scene) -> Path:
    """A thief of one targets key signs twice."""
    return s.bundle(by={"targets": [SIGNER.targets[0], SIGNER.targets[0]]})


@attack("import 5", d.SIGNED["targets"], 20, row="publisher", kind="wrong role")
def targets_by_a_publisher(s: Scene) -> Path:
    """A publisher signs the organisation's own list."""
    draft = from_vendor()
    assert draft.publisher is not None
    return s.bundle(draft, by={"targets": draft.publisher.keys})


@attack("import 5", d.SIGNED_BY_PUBLISHER, 20, row="publisher", kind="wrong key")
def publisher_by_a_stranger(s: Scene) -> Path:
    """A stranger signs a publisher's list."""
    return s.bundle(from_vendor(by=[new_key()]))


@attack(
    "import 5", d.SIGNED_BY_PUBLISHER, 20, row="publisher", kind="key compromise below threshold"
)
def publisher_by_one_of_two(s: Scene) -> Path:
    """A thief of one of a publisher's keys approves a model."""
    draft = from_vendor(keys=2, threshold=2)
    assert draft.publisher is not None
    draft.publisher = replace(draft.publisher, by=draft.publisher.keys[:1])
    return s.bundle(draft)


@attack("import 5", d.DISTINCT_KEYS, 27, row="publisher", kind="key compromise below threshold")
def publisher_with_one_key_under_two_ids(s: Scene) -> Path:
    """One person counts as two of a publisher's keys."""
    draft, key = from_vendor(), new_key()
    assert draft.publisher is not None
    keys = [key, SecondId(key.private)]
    draft.publisher = replace(draft.publisher, keys=keys, threshold=2)
    return s.bundle(draft)


@attack("import 5", d.TYPE, 27, kind="wrong role", without=FELL, keeps=True)
def snapshot_in_place_of_a_timestamp(s: Scene) -> Path:
    """A file of one role is offered as another's, by a key that may sign both."""
    both = replace(SIGNER, timestamp=SIGNER.targets)
    folder = s.bundle(signer=both, roots=[both.root_file(2, by=SIGNER.root)])
    snapshot = (folder / "tuf" / "1.snapshot.json").read_bytes()
    (folder / "tuf" / "timestamp.json").write_bytes(snapshot)
    return folder
