"""Attacks that steps 1 to 8 of an import stop: keys, roots, time, versions, declarations."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.ledger import meta
from appliance.trust import remembered
from appliance.trust.metadata import RoleSet
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
    director,
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
    hub,
    new_key,
    public,
    revoked,
    write_roles,
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


# --- step 5: rollback and equivocation ------------------------------------------------------------

OLD = (d.REMEMBERED,)


@attack("import 5", d.REMEMBERED, 22, row="timestamp", kind="rollback")
def old_stick(s: Scene) -> Path:
    """A stick from before a model was taken off the list is plugged in again."""
    old = s.bundle()
    s.took(other(), versions=(2, 2, 2))
    return old


@attack("import 5", d.REMEMBERED, 22, row="publisher", kind="rollback")
def old_stick_of_a_removed_publisher(s: Scene) -> Path:
    """A stick from before a publisher was removed is plugged in again."""
    draft = from_vendor()
    old = s.bundle(draft)
    s.took(other(), versions=(2, 2, 2), removed=draft.publishers())
    return old


@attack("import 5", d.TIMESTAMP_ROLLBACK, 22, row="timestamp", kind="rollback", rests_on=OLD)
def timestamp_of_an_older_snapshot(s: Scene) -> Path:
    """A thief of the timestamp key calls an older snapshot the newest."""
    s.took(versions=(1, 2, 2))
    return s.bundle(versions=(2, 1, 2))


@attack("import 5", d.SNAPSHOT_ROLLBACK, 22, row="targets", kind="rollback", rests_on=OLD)
def snapshot_of_older_targets(s: Scene) -> Path:
    """A newer snapshot names an older list of targets."""
    s.took(versions=(1, 1, 2))
    return s.bundle(versions=(2, 2, 1))


@attack("import 5", d.SNAPSHOT_ROLLBACK, 22, row="publisher", kind="rollback", rests_on=OLD)
def snapshot_of_an_older_publisher(s: Scene) -> Path:
    """A publisher's older list is offered again."""
    draft = from_vendor(version=2)
    s.took(draft)
    assert draft.publisher is not None
    draft.publisher = replace(draft.publisher, version=1)
    return s.bundle(draft, versions=(2, 2, 2))


@attack("import 5", d.SNAPSHOT_ROLLBACK, 27, row="publisher", kind="rollback", rests_on=OLD)
def snapshot_that_forgets_a_publisher(s: Scene) -> Path:
    """A publisher's entry vanishes, so that its versions could begin anew."""
    s.took(from_vendor())
    return s.bundle(versions=(2, 2, 2))


@attack("import 5", d.ONE_CONTENT, 31, row="timestamp", kind="equivocation", rests_on=OLD)
def two_timestamps_of_one_version(s: Scene) -> Path:
    """Two timestamps call themselves version 1."""
    s.took()
    return s.bundle(edit={"timestamp": with_field("x-note", "another")})


@attack(
    "import 5", d.ONE_CONTENT, 31, row="targets", kind="equivocation", rests_on=(*OLD, d.HASHES)
)
def two_snapshots_of_one_version(s: Scene) -> Path:
    """Two snapshots call themselves version 1."""
    s.took()
    return s.bundle(versions=(2, 1, 1), edit={"snapshot": with_field("x-note", "another")})


@attack(
    "import 5", d.ONE_CONTENT, 31, row="targets", kind="equivocation", rests_on=(*OLD, d.HASHES)
)
def two_lists_of_one_version(s: Scene) -> Path:
    """Two lists of targets call themselves version 1."""
    s.took()
    return s.bundle(versions=(2, 2, 1), edit={"targets": with_field("x-note", "another")})


# --- step 5: freeze, mix-and-match, what must be said ---------------------------------------------


@attack("import 5", d.EXPIRY["timestamp"], 21, row="timestamp", kind="freeze")
def timestamp_that_expired(s: Scene) -> Path:
    """An old bundle is offered for ever, so that nobody hears what was revoked since."""
    return s.bundle(edit=lasting("timestamp", NOW - HOUR))


@attack("import 5", d.EXPIRY["snapshot"], 21, kind="freeze")
def snapshot_that_expired(s: Scene) -> Path:
    """An expired snapshot is called the newest."""
    return s.bundle(edit=lasting("snapshot", NOW - HOUR))


@attack("import 5", d.EXPIRY["targets"], 21, row="targets", kind="freeze")
def targets_that_expired(s: Scene) -> Path:
    """An expired list is called the newest."""
    return s.bundle(edit=lasting("targets", NOW - HOUR))


@attack("import 5", d.EXPIRY["targets"], 21, row="publisher", kind="freeze")
def publisher_that_expired(s: Scene) -> Path:
    """A publisher's expired list is called the newest."""
    return s.bundle(from_vendor(edit=lambda part: setattr(part, "expires", NOW - HOUR)))


@attack("import 5", d.HASHES, 26, kind="mix-and-match")
def targets_of_another_bundle(s: Scene) -> Path:
    """The list of one signed bundle is put into another, by whoever carries them."""
    folder, another = s.bundle(), s.bundle(edit={"targets": with_field("x-note", "another")})
    return _with(folder, another, "1.targets.json")


@attack("import 5", d.HASHES, 26, kind="mix-and-match")
def snapshot_of_another_bundle(s: Scene) -> Path:
    """The snapshot of one signed bundle is put into another, by whoever carries them."""
    folder, another = s.bundle(), s.bundle(edit={"snapshot": with_field("x-note", "another")})
    return _with(folder, another, "1.snapshot.json")


def _with(folder: Path, another: Path, name: str) -> Path:
    (folder / "tuf" / name).write_bytes((another / "tuf" / name).read_bytes())
    return folder


@attack("import 5", d.DESCRIBED, 27, row="timestamp", kind="mix-and-match")
def timestamp_without_a_hash(s: Scene) -> Path:
    """The timestamp names a snapshot by its number alone, so that any of it would do."""

    def bare(timestamp: Any) -> None:
        timestamp.snapshot_meta.hashes = None

    return s.bundle(edit={"timestamp": bare})


@attack("import 5", d.DESCRIBED, 27, kind="endless data")
def snapshot_without_a_length(s: Scene) -> Path:
    """The snapshot does not say how long the list is."""

    def bare(snapshot: Any) -> None:
        snapshot.meta["targets.json"].length = None

    return s.bundle(edit={"snapshot": bare})


@attack("import 5", d.ISSUED_FIRST, 27, row="timestamp", kind="time")
def timestamp_from_after_its_expiry(s: Scene) -> Path:
    """A timestamp was issued after it expires, to move the node's time ahead."""
    return s.bundle(edit={"timestamp": issued(ISSUED + LIFETIME)})


@attack("import 5", d.ISSUE_TIME, 27, row="targets", kind="time")
def targets_that_say_no_time(s: Scene) -> Path:
    """A list does not say when it was issued, so that it proves no time."""
    return s.bundle(edit={"targets": lambda part: part.unrecognized_fields.pop("x-issued")})


@attack("import 5", d.MOST_DELEGATIONS, 27, row="targets", kind="endless data")
def endless_publishers(s: Scene) -> Path:
    """Targets name so many publishers that asking for their lists never ends."""
    vendors = [Publisher.new(f"vendor-{number}") for number in range(257)]
    return s.bundle(publishers=vendors)


# --- step 6: what is declared ---------------------------------------------------------------------


def declaring(s: Scene, then: Draft, first: Draft) -> Path:
    s.took(first)
    return s.bundle(then, versions=(2, 2, 2))


@attack("import 6", d.EPOCHS, 22, row="director", kind="rollback")
def director_of_an_older_epoch(s: Scene) -> Path:
    """A director that was replaced is named again."""
    first = good()
    first.director = director(2)
    return declaring(s, good(), first)


@attack("import 6", d.EPOCHS, 22, row="targets", kind="rollback")
def hub_of_an_older_epoch(s: Scene) -> Path:
    """A hub's authority that was replaced is named again."""
    first, then = good(), good()
    first.hub, then.hub = hub(2), hub(1)
    return declaring(s, then, first)


@attack("import 6", d.EPOCHS, 22, row="targets", kind="rollback")
def revocations_of_an_older_epoch(s: Scene) -> Path:
    """What was revoked is allowed again by an older list."""
    first, then = good(), good()
    first.revoked, then.revoked = revoked(epoch=2), revoked(epoch=1)
    return declaring(s, then, first)


@attack("import 6", d.ORGANISATION, 28, row="director", kind="wrong role")
def director_of_another_organisation(s: Scene) -> Path:
    """Keys that serve two organisations sign for the other one."""
    then = good()
    then.director = director(2, org="other")
    return declaring(s, then, good())


@attack("import 6", d.DIRECTOR_APART, 28, row="director", kind="wrong role")
def director_with_a_key_that_approves(s: Scene) -> Path:
    """A key of the hub is one that approves, so that the hub could approve for itself."""
    draft = good()
    draft.director = director(keys=[SIGNER.targets[0].public])
    return s.bundle(draft)


@attack("import 6", d.SYNC_APART, 27, row="sync", kind="wrong role")
def sync_key_that_directs(s: Scene) -> Path:
    """One online key both instructs and acknowledges."""
    draft = good()
    draft.director = director(sync=[DIRECTOR.public])
    return s.bundle(draft)


@attack("import 6", d.DOCUMENT_CAP, 27, row="targets", kind="endless data")
def endless_declaration(s: Scene) -> Path:
    """A declaration never ends."""
    draft = good()
    draft.director = director(padding=PAD)
    return s.bundle(draft)


@attack("import 6", d.DOCUMENT_BYTES, 26, kind="other bytes")
def declaration_with_other_bytes(s: Scene) -> Path:
    """The stick names another director than was signed."""
    draft = good()
    folder = s.bundle(draft)
    mine = director(keys=[new_key().public])
    draft.file(folder, "director").write_bytes(mine)
    return folder


# --- step 8: metadata and ledger go together ------------------------------------------------------


@attack(
    "import 8", d.REDERIVED, 21, kind="freeze", keeps=True,
    rests_on=(d.REMEMBERED, d.CLOCK, d.EXPIRY["timestamp"]),
)  # fmt: skip
def power_cut_between_metadata_and_ledger(s: Scene) -> Attempt:
    """The power is cut before the floor is written; then the clock is set back."""
    s.took(other())
    later = good(small_llama(b"later"), version="3.0.0")
    roles = SIGNER.metadata(later.listed(), (2, 2, 2), issued=ISSUED + 100 * DAY)
    _commit_without_ledger(s, roles, later)
    s.at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    stale = importing(s.bundle(versions=(3, 3, 3), edit=lasting("timestamp", ISSUED + 99 * DAY)))

    def start_and_import(node: Node) -> object:
        remembered.rederive(node.trust, node.ledger)
        return stale(node)

    return start_and_import


def _commit_without_ledger(s: Scene, roles: RoleSet, draft: Draft) -> None:
    folder = s.folder / "cut"
    write_roles(folder, roles)
    in_force = s.node.state / "tuf" / "current"
    for role in ("timestamp", "snapshot", "targets"):
        (in_force / f"{role}.json").write_bytes(getattr(roles, role))
    assert draft.director is not None
    (in_force / "trust" / "director.json").write_bytes(draft.director)
