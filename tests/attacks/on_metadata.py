"""Attacks with old, mixed or other metadata, and with what it declares: steps 5 to 8."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.trust import remembered
from appliance.trust.metadata import RoleSet
from tests.attacks import defences as d
from tests.attacks.attack import (
    DAY,
    DIRECTOR,
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
from tests.attacks.on_keys import HOUR, PAD, from_vendor, other
from tests.helpers.gguf import small_llama
from tests.helpers.organisation import Node
from tests.helpers.signing import (
    ISSUED,
    LIFETIME,
    Draft,
    Publisher,
    hub,
    new_key,
    revoked,
    write_roles,
)

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
