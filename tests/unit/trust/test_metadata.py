"""What a node checks before it believes metadata: each check by the metadata that it stops."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Root,
    SuccinctRoles,
    Targets,
    Timestamp,
)

from appliance.core.signedtime import SignedTime
from appliance.errors import (
    ApplianceError,
    CorruptError,
    DowngradeError,
    EquivocationError,
    ExpiredError,
    IncompleteError,
    MalformedError,
    ScopeError,
    SignatureError,
    StateUnusableError,
)
from appliance.trust import floor, metadata, scope
from appliance.trust.metadata import RoleSet, SignedTarget, Verified
from appliance.trust.workflow import CAPS
from tests.helpers.signing import (
    ISSUED,
    LIFETIME,
    Publisher,
    Signer,
    digest_of,
    new_key,
    public,
    reading,
    target,
)

SIGNER, STRANGER = Signer.new(), Signer.new()
ROOT = SIGNER.root_file()
LISTED = {"some/path": target(b"words", "text/plain")}
FIRST, SECOND = SIGNER.metadata(LISTED), SIGNER.metadata({}, (2, 2, 2))
ROLES = ["timestamp", "snapshot", "targets"]
DAY = datetime.timedelta(days=1)


def refresh(
    offered: RoleSet,
    stored: RoleSet | None = None,
    *,
    now: datetime.datetime = ISSUED,
    root: bytes = ROOT,
) -> Verified:
    return metadata.refresh(root, stored, reading(offered), now)


def refusal(offered: RoleSet, stored: RoleSet | None = None, **how: Any) -> type[ApplianceError]:
    with pytest.raises(ApplianceError) as caught:
        refresh(offered, stored, **how)
    return type(caught.value)


def follow(trusted: bytes, *roots: bytes | None) -> list[int]:
    """Return the versions that were found good in roots offered as 2, 3, …"""
    offered = dict(enumerate(roots, start=2))
    return [version for version, _ in metadata.advance_root(trusted, offered.get)]


# --- step 2: roots --------------------------------------------------------------------------------


def test_a_chain_is_followed_until_a_version_is_missing() -> None:
    second = SIGNER.rotated("root")
    third = second.rotated("root", "targets")
    chain = [
        second.root_file(2, by=SIGNER.root),
        third.root_file(3, by=second.root),
        third.root_file(4),
    ]
    assert follow(ROOT) == []
    assert follow(ROOT, *chain) == [2, 3, 4]
    assert follow(ROOT, chain[0], None, chain[2]) == [2]
    assert follow(chain[0], *chain) == [3, 4]


def test_a_root_needs_the_old_keys_and_its_own() -> None:
    other = SIGNER.rotated("root")
    for data in (
        other.root_file(2),
        replace(SIGNER, root=[]).root_file(
            2, by=SIGNER.root, edit=lambda root: root.add_key(public(other.root[0]), "root")
        ),
        STRANGER.root_file(2),
    ):
        with pytest.raises(SignatureError):
            follow(ROOT, data)


def test_the_good_roots_before_a_bad_one_are_found() -> None:
    good = SIGNER.root_file(2)
    found = metadata.advance_root(ROOT, {2: good, 3: STRANGER.root_file(3)}.get)
    assert next(found) == (2, good)
    with pytest.raises(SignatureError):
        next(found)


def test_at_most_256_roots_are_followed() -> None:
    assert follow(ROOT, *(SIGNER.root_file(n) for n in range(2, 260))) == list(range(2, 258))


def without(name: str) -> Callable[[Any], object]:
    return lambda part: part.unrecognized_fields.pop(name)


def same_key_again(root: Root) -> None:
    """List one key under a second id."""
    key = public(SIGNER.targets[0])
    key.keyid = "ff" * 32
    root.add_key(key, "targets")
    root.roles["targets"].threshold = 2


def same_key_in_another_spelling(root: Root) -> None:
    same_key_again(root)
    key = root.keys["ff" * 32]
    key.keyval = {"public": key.keyval["public"].upper()}


@pytest.mark.parametrize(
    "edit",
    [
        without("x-issued"),
        lambda root: root.unrecognized_fields.update({"x-issued": "2999-01-01T00:00:00Z"}),
        same_key_again,
        same_key_in_another_spelling,
        lambda root: root.roles["targets"].keyids.append("ab" * 32),
    ],
)
def test_a_root_that_no_role_should_follow_is_malformed(edit: Callable[[Any], object]) -> None:
    with pytest.raises(MalformedError):
        follow(ROOT, SIGNER.root_file(2, edit=edit))


def test_a_root_says_its_own_version() -> None:
    with pytest.raises(DowngradeError):
        follow(ROOT, SIGNER.root_file(3))
    with pytest.raises(MalformedError, match="Expected 'root'"):
        follow(ROOT, FIRST.targets)


def test_a_first_root_vouches_for_itself() -> None:
    assert metadata.root_version(SIGNER.root_file(7)) == 7
    with pytest.raises(SignatureError):
        metadata.root_version(replace(SIGNER, root=[]).root_file(edit=_with_root_key))
    for edit in (same_key_again, lambda root: root.roles["root"].keyids.append("ab" * 32)):
        with pytest.raises(MalformedError):
            metadata.root_version(SIGNER.root_file(edit=edit))
    for data in (b"", b"{}", b"[]", b"[" * 100_000, b"\xff", FIRST.snapshot):
        with pytest.raises(MalformedError):
            metadata.root_version(data)


def _with_root_key(root: Root) -> None:
    root.add_key(public(SIGNER.root[0]), "root")


# --- step 5: what a bundle offers -----------------------------------------------------------------


def test_what_was_signed_is_believed() -> None:
    found = refresh(FIRST)
    assert found == Verified(
        roles=FIRST,
        is_new=True,
        was_older=False,
        targets={
            "some/path": SignedTarget(
                "some/path", found.targets["some/path"].digest, 5, "text/plain"
            )
        },
        times=times(FIRST),
        versions={"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1},
    )
    assert found.targets["some/path"].digest == digest_of(b"words")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_signed_by_its_own_keys(role: str) -> None:
    for keys in (STRANGER.targets, SIGNER.root, []):
        assert refusal(SIGNER.metadata(LISTED, by={role: keys})) is SignatureError
    swapped = {"timestamp": SIGNER.targets, "snapshot": SIGNER.timestamp}
    assert refusal(SIGNER.metadata(LISTED, by={role: swapped.get(role, SIGNER.timestamp)})) is (
        SignatureError
    )


def test_a_threshold_counts_distinct_keys() -> None:
    two = replace(SIGNER, targets=[*SIGNER.targets, *STRANGER.targets])

    def both(root: Root) -> None:
        root.roles["targets"].threshold = 2

    root = two.root_file(edit=both)
    assert refresh(two.metadata(LISTED), root=root).is_new
    for keys in (SIGNER.targets, SIGNER.targets * 2, [*SIGNER.targets, *SIGNER.root]):
        assert refusal(two.metadata(LISTED, by={"targets": keys}), root=root) is SignatureError


@pytest.mark.parametrize("role", ROLES)
def test_every_role_expires(role: str) -> None:
    def sooner(part: Any) -> None:
        part.expires = ISSUED + DAY

    offered = SIGNER.metadata(LISTED, edit={role: sooner})
    assert refresh(offered, now=ISSUED + DAY - datetime.timedelta(seconds=1)).is_new
    assert refusal(offered, now=ISSUED + DAY) is ExpiredError


def test_an_expired_root_stops_everything() -> None:
    def sooner(root: Root) -> None:
        root.expires = ISSUED + DAY

    root = SIGNER.root_file(edit=sooner)
    assert refusal(FIRST, root=root, now=ISSUED + DAY) is ExpiredError
    assert refusal(SECOND, FIRST, root=root, now=ISSUED + DAY) is ExpiredError
    with pytest.raises(ExpiredError, match="root has expired"):
        refresh(FIRST, root=root, now=ISSUED + DAY)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "issued", [None, "yesterday", "2027-01-01T00:00:00", "2999-01-01T00:00Z", 7]
)
def test_every_role_says_when_it_was_issued_and_that_is_before_it_expires(
    role: str, issued: object
) -> None:
    def change(part: Any) -> None:
        part.unrecognized_fields.pop("x-issued")
        if issued is not None:
            part.unrecognized_fields["x-issued"] = issued

    assert refusal(SIGNER.metadata(LISTED, edit={role: change})) is MalformedError


def test_lengths_and_hashes_are_there_and_hold() -> None:
    for name in ("hashes", "length"):
        for edit in (
            {"timestamp": lambda t, name=name: setattr(t.snapshot_meta, name, None)},
            {"snapshot": lambda s, name=name: setattr(s.meta["targets.json"], name, None)},
        ):
            assert refusal(SIGNER.metadata(LISTED, edit=edit)) is MalformedError
    for role in ("snapshot", "targets"):
        changed = _with(FIRST, role, getattr(FIRST, role) + b"\n")
        assert refusal(changed) is CorruptError
    assert refusal(SIGNER.metadata({}, edit={"snapshot": lambda s: s.meta.clear()})) is (
        MalformedError
    )


def test_one_role_never_passes_for_another() -> None:
    def name_targets(timestamp: Timestamp) -> None:
        timestamp.snapshot_meta = MetaFile.from_data(1, FIRST.targets, ["sha256"])

    # Targets and snapshot share their keys here, so only the type tells them apart.
    offered = SIGNER.metadata(LISTED, edit={"timestamp": name_targets})
    assert refusal(replace(offered, snapshot=FIRST.targets)) is MalformedError
    assert refusal(replace(FIRST, timestamp=FIRST.snapshot)) is MalformedError
    assert refusal(replace(FIRST, timestamp=ROOT)) is MalformedError


@pytest.mark.parametrize("junk", [b"", b"{}", b"[" * 60_000, b"\xff", b'{"signed":1}', b"null"])
def test_junk_is_malformed(junk: bytes) -> None:
    assert refusal(replace(FIRST, timestamp=junk)) is MalformedError
    assert refusal(replace(FIRST, timestamp=junk), FIRST) is MalformedError


def test_a_target_is_listed_by_its_sha256_alone() -> None:
    for hashes in (
        {"sha512": "ab" * 64},
        {"sha256": "ab" * 32, "sha512": "ab" * 64},
        {"sha256": "../../../../etc/passwd"},
        {"sha256": "AB" * 32},
    ):
        listed = {"some/path": target(b"words")}
        listed["some/path"].hashes = hashes
        assert refusal(SIGNER.metadata(listed)) is MalformedError


@pytest.mark.parametrize("custom", [None, "text", [], {}, {"mediaType": None}])
def test_a_target_without_a_media_type_has_none(custom: object) -> None:
    listed = {"some/path": target(b"words")}
    listed["some/path"].unrecognized_fields["custom"] = custom
    assert refresh(SIGNER.metadata(listed)).targets["some/path"].media_type is None


# --- what is stored already -----------------------------------------------------------------------


def test_newer_replaces_older_is_ignored_and_equal_is_known() -> None:
    newer = refresh(SECOND, FIRST)
    assert (newer.roles, newer.is_new, newer.was_older) == (SECOND, True, False)
    older = refresh(FIRST, SECOND)
    assert (older.roles, older.is_new, older.was_older) == (SECOND, False, True)
    assert dict(older.targets) == {}
    again = refresh(SECOND, SECOND)
    assert (again.roles, again.is_new, again.was_older) == (SECOND, False, False)


def test_the_stored_metadata_expires_too_where_the_bundle_s_is_not_newer() -> None:
    for offered in (FIRST, SECOND):
        with pytest.raises(ExpiredError, match="timestamp has expired"):
            refresh(offered, SECOND, now=ISSUED + LIFETIME)


@pytest.mark.parametrize("versions", [(3, 1, 2), (3, 2, 1), (3, 3, 1), (3, 1, 1)])
def test_no_version_goes_down_even_when_the_stored_has_expired(
    versions: tuple[int, int, int],
) -> None:
    assert refusal(SIGNER.metadata({}, versions), SECOND) is DowngradeError
    later = ISSUED + LIFETIME
    offered = SIGNER.metadata({}, versions, issued=later)
    assert refusal(offered, SECOND, now=later) is DowngradeError


def test_the_snapshot_names_the_versions_that_are_there() -> None:
    def other_version(snapshot: Any) -> None:
        snapshot.meta["targets.json"].version = 3

    assert refusal(SIGNER.metadata({}, (2, 2, 2), edit={"snapshot": other_version})) is (
        DowngradeError
    )


def test_a_role_never_vanishes_from_the_snapshot() -> None:
    def add(snapshot: Any) -> None:
        snapshot.meta["vendor.json"] = MetaFile(1, 1, {"sha256": "ab" * 32})

    stored = SIGNER.metadata({}, edit={"snapshot": add})
    assert refusal(SECOND, stored) is MalformedError


@pytest.mark.parametrize("versions", [(1, 1, 1), (2, 1, 2), (2, 2, 1), (1, 2, 2)])
def test_one_version_of_any_role_has_one_content(versions: tuple[int, int, int]) -> None:
    offered = SIGNER.metadata(LISTED, versions, issued=ISSUED + DAY)
    assert refusal(offered, FIRST) is EquivocationError


def test_only_a_signature_can_show_that_a_signer_said_two_things() -> None:
    stranger = STRANGER.metadata(LISTED, issued=ISSUED + DAY)
    assert refusal(stranger, FIRST) is SignatureError
    damaged = FIRST.timestamp.replace(b'"version": 1', b'"version": 1 ')
    assert damaged != FIRST.timestamp
    # Blanks are not signed: whoever carries the stick can add some, and must not gain by it.
    assert not refresh(replace(FIRST, timestamp=damaged), FIRST).is_new
    assert not refresh(FIRST, replace(FIRST, timestamp=damaged)).is_new


def test_a_stranger_s_older_metadata_is_ignored_like_any_other() -> None:
    found = refresh(STRANGER.metadata({"evil": target(b"")}), SECOND)
    assert (found.roles, found.is_new) == (SECOND, False)


def test_new_keys_begin_anew_at_any_version() -> None:
    """Fast-forward recovery: stolen keys may have signed the highest version there is."""
    stored = SIGNER.metadata(LISTED, (2**31, 2**31, 2**31))
    for rotated in (("targets",), ("timestamp", "targets")):
        signer = SIGNER.rotated(*rotated)
        root = signer.root_file(2, by=SIGNER.root)
        found = refresh(signer.metadata({}), stored, root=root)
        assert (found.is_new, found.versions["targets"]) == (True, 1)
        assert refusal(stored, stored, root=root) is SignatureError


def test_a_new_timestamp_key_begins_anew_only_with_the_timestamp() -> None:
    """Its thief could raise the timestamp's version, and no other."""
    stored = SIGNER.metadata(LISTED, (2**31, 2, 2))
    signer = SIGNER.rotated("timestamp")
    root = signer.root_file(2, by=SIGNER.root)
    found = refresh(signer.metadata({}, (1, 3, 3)), stored, root=root)
    assert (found.is_new, found.versions["timestamp"], found.versions["targets"]) == (True, 1, 3)
    assert refresh(signer.metadata(LISTED, (1, 2, 2)), stored, root=root).is_new
    assert refusal(signer.metadata({}, (1, 1, 1)), stored, root=root) is DowngradeError
    assert refusal(signer.metadata({}, (1, 3, 2)), stored, root=root) is EquivocationError


def test_what_the_disk_damaged_is_said_to_be_damaged() -> None:
    for role in ROLES[:2]:
        with pytest.raises(StateUnusableError, match="damaged"):
            refresh(SECOND, _with(FIRST, role, b"\0" * 100))
    with pytest.raises(StateUnusableError, match="damaged"):
        metadata.signed_targets(_with(FIRST, "targets", b""))
    with pytest.raises(StateUnusableError, match="damaged"):
        metadata.signed_times(ROOT, [ROOT], _with(FIRST, "targets", b""))


# --- publishers -----------------------------------------------------------------------------------

MODEL = "models/vendor/small/1.0.0/Q4_0"
MANIFEST = scope.MANIFEST_TYPE
VENDOR = Publisher.new(listed={MODEL: target(b"the vendor's", MANIFEST)})


def by_publishers(*publishers: Publisher, **how: Any) -> RoleSet:
    return SIGNER.metadata(LISTED, publishers=publishers, **how)


def test_a_publisher_lists_its_own_models() -> None:
    other = Publisher.new("other", listed={"models/other/m/1/Q8_0": target(b"o", MANIFEST)})
    found = refresh(by_publishers(VENDOR, other))
    assert {path: t.role for path, t in found.targets.items()} == {
        "some/path": "targets", MODEL: "publisher-vendor", "models/other/m/1/Q8_0": other.role,
    }  # fmt: skip
    assert found.targets[MODEL].digest == digest_of(b"the vendor's")
    assert set(found.roles.delegated) == {"publisher-vendor", "publisher-other"}
    assert found.versions["publisher-vendor"] == 1
    assert metadata.signed_targets(found.roles) == found.targets
    again = refresh(found.roles, found.roles)
    assert (again.roles, again.is_new, again.targets) == (found.roles, False, found.targets)


def test_top_level_targets_win_over_a_publisher() -> None:
    also = {MODEL: target(b"the organisation's", MANIFEST)}
    found = refresh(SIGNER.metadata(also, publishers=[VENDOR]))
    assert found.targets[MODEL].digest == digest_of(b"the organisation's")
    assert found.targets[MODEL].role == "targets"


@pytest.mark.parametrize(
    "path",
    [
        "trust/director.json",
        "trust/revoked.json",
        "releases/small/1.0.0.json",
        "images/engine/1.0.0",
        "files/profile/llama-cpp/1",
        "files/wheel/x/1",
        "local/small/1.0.0/Q4_0",
        "models/other/small/1.0.0/Q4_0",
        "models/vendor/small/1.0.0",
        "models/vendor/small/1.0.0/Q4_0/more",
        "models/vendor/small/1.0.0/../Q4_0",
        "models/vendor/../other/1.0.0/Q4_0",
        "models/vendor/.hidden/1.0.0/Q4_0",
        "models/vendor//1.0.0/Q4_0",
        "Models/vendor/small/1.0.0/Q4_0",
        "some/path",
    ],
)
def test_a_publisher_lists_nothing_else(path: str) -> None:
    vendor = replace(VENDOR, listed={path: target(b"x", MANIFEST)})
    assert refusal(by_publishers(vendor)) is ScopeError


@pytest.mark.parametrize("kind", [None, "application/json", "application/x-python"])
def test_a_publisher_lists_manifests_of_models(kind: str | None) -> None:
    vendor = replace(VENDOR, listed={MODEL: target(b"x", kind)})  # type: ignore[arg-type]
    assert refusal(by_publishers(vendor)) is ScopeError


def delegating(**fields: object) -> Publisher:
    """Return a publisher whose delegation says something else."""

    def edit(role: object) -> None:
        for name, value in fields.items():
            setattr(role, name, value)

    return replace(VENDOR, edit_role=edit)


@pytest.mark.parametrize(
    "vendor",
    [
        delegating(terminating=False),
        delegating(paths=[]),
        delegating(paths=["models/vendor/*/*/*", "models/other/*/*/*"]),
        delegating(paths=["models/vendor/*/*/*"] * 2),
        delegating(paths=["models/*/*/*/*"]),
        delegating(paths=["models/other/*/*/*"]),
        delegating(paths=["*"]),
        delegating(paths=["trust/*"]),
        delegating(paths=None, path_hash_prefixes=["00"]),
        delegating(name="vendor"),
        delegating(name="publisher-other"),
        delegating(name="publisher-"),
        delegating(name="publisher-Vendor"),
        delegating(name="publisher-../vendor"),
        Publisher.new("local"),
    ],
)
def test_a_delegation_is_to_a_publisher_and_its_models_alone(vendor: Publisher) -> None:
    assert refusal(by_publishers(replace(vendor, listed={}))) is ScopeError


def test_targets_delegate_to_no_hash_bins() -> None:
    def bins(targets: Targets) -> None:
        key = public(VENDOR.keys[0])
        bins = SuccinctRoles([key.keyid], 1, 2, "publisher-vendor")
        targets.delegations = Delegations({key.keyid: key}, None, bins)

    assert refusal(SIGNER.metadata(LISTED, edit={"targets": bins})) is ScopeError


def test_a_publisher_delegates_to_nobody() -> None:
    def delegate(targets: Targets) -> None:
        targets.delegations = Delegations({}, {})
        Publisher.new("other").delegate(targets.delegations)

    assert refusal(by_publishers(replace(VENDOR, edit=delegate))) is ScopeError


def test_there_are_at_most_256_publishers() -> None:
    def more(targets: Targets) -> None:
        targets.delegations = Delegations({}, {})
        for number in range(257):
            replace(VENDOR, name=f"v{number}").delegate(targets.delegations)

    with pytest.raises(MalformedError, match="more than 256 roles"):
        refresh(SIGNER.metadata({}, edit={"targets": more}))
    many = [replace(VENDOR, name=f"v{number}", listed={}) for number in range(256)]
    assert len(refresh(SIGNER.metadata({}, publishers=many)).roles.delegated) == 256


def test_a_publisher_s_threshold_counts_distinct_keys() -> None:
    two = Publisher.new(keys=2, threshold=2)
    assert refresh(by_publishers(two)).is_new
    for by in (two.keys[:1], two.keys[:1] * 2, [two.keys[0], *SIGNER.targets], []):
        assert refusal(by_publishers(replace(two, by=by))) is SignatureError

    def twice(targets: Targets) -> None:
        key = public(VENDOR.keys[0])
        key.keyid = "ff" * 32
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.keys[key.keyid] = key
        targets.delegations.roles[VENDOR.role].keyids.append(key.keyid)

    assert refusal(by_publishers(VENDOR, edit={"targets": twice})) is MalformedError


def test_a_publisher_s_list_is_signed_by_its_own_keys() -> None:
    for keys in (SIGNER.targets, SIGNER.root, Publisher.new().keys):
        assert refusal(by_publishers(replace(VENDOR, by=keys))) is SignatureError


def test_a_publisher_s_list_expires_and_says_when_it_was_issued() -> None:
    def sooner(part: Any) -> None:
        part.expires = ISSUED + DAY

    assert refusal(by_publishers(replace(VENDOR, edit=sooner)), now=ISSUED + DAY) is ExpiredError
    unsaid = replace(VENDOR, edit=without("x-issued"))
    assert refusal(by_publishers(unsaid)) is MalformedError


def test_a_publisher_s_list_is_the_one_that_the_snapshot_names() -> None:
    good, other = by_publishers(VENDOR), replace(VENDOR, listed={})
    changed = replace(good, delegated=by_publishers(other).delegated)
    assert refusal(changed) is CorruptError
    assert refusal(replace(good, delegated={})) is IncompleteError

    def forget(snapshot: Any) -> None:
        del snapshot.meta["publisher-vendor.json"]

    assert refusal(by_publishers(VENDOR, edit={"snapshot": forget})) is MalformedError
    for name in ("hashes", "length"):

        def vague(snapshot: Any, name: str = name) -> None:
            setattr(snapshot.meta["publisher-vendor.json"], name, None)

        assert refusal(by_publishers(VENDOR, edit={"snapshot": vague})) is MalformedError


def test_a_publisher_s_version_never_goes_down_and_has_one_content() -> None:
    stored = by_publishers(replace(VENDOR, version=2))
    older = by_publishers(VENDOR, versions=(2, 2, 2))
    assert refusal(older, stored) is DowngradeError
    other = by_publishers(replace(VENDOR, version=2, listed={}), versions=(2, 2, 2))
    assert refusal(other, stored) is EquivocationError
    newer = by_publishers(replace(VENDOR, version=3, listed={}), versions=(2, 2, 2))
    assert MODEL not in refresh(newer, stored).targets


def test_a_publisher_whose_delegation_went_is_listed_no_more_and_all_else_goes_on() -> None:
    stored = by_publishers(VENDOR)
    gone = SIGNER.metadata(LISTED, (2, 2, 2), removed=[VENDOR])
    found = refresh(gone, stored)
    assert set(found.targets) == {"some/path"}
    assert found.roles.delegated == {}
    back = SIGNER.metadata(LISTED, (3, 3, 3), publishers=[replace(VENDOR, version=2)])
    assert MODEL in refresh(back, found.roles).targets


def test_a_publisher_that_vanishes_from_the_snapshot_is_refused() -> None:
    assert refusal(SIGNER.metadata(LISTED, (2, 2, 2)), by_publishers(VENDOR)) is MalformedError


def test_a_star_does_not_cross_a_slash() -> None:
    """Our own form says so, whatever the library's patterns would match."""
    vendor = replace(VENDOR, listed={"models/vendor/a/b/c/d": target(b"x", MANIFEST)})
    assert refusal(by_publishers(vendor)) is ScopeError


# --- what is asked for ----------------------------------------------------------------------------


def test_each_file_is_asked_for_once_by_a_name_that_was_verified() -> None:
    asked: list[tuple[str, int]] = []
    offered = SIGNER.metadata(LISTED, (7, 5, 3), publishers=[replace(VENDOR, version=9)])

    def read(name: str, cap: int) -> bytes:
        asked.append((name, cap))
        return reading(offered)(name, cap)

    metadata.refresh(ROOT, None, read, ISSUED)
    assert asked == [
        ("timestamp.json", CAPS["timestamp"]),
        ("5.snapshot.json", CAPS["snapshot"]),
        ("3.targets.json", CAPS["targets"]),
        ("9.publisher-vendor.json", CAPS["delegated"]),
    ]
    asked.clear()
    metadata.refresh(ROOT, offered, read, ISSUED)
    assert asked == [("timestamp.json", CAPS["timestamp"])]


@pytest.mark.parametrize("role", ROLES)
def test_after_a_refusal_nothing_more_is_asked_for(role: str) -> None:
    asked: list[str] = []
    offered = SIGNER.metadata(LISTED, by={role: STRANGER.targets})

    def read(name: str, cap: int) -> bytes:
        asked.append(name)
        return reading(offered)(name, cap)

    with pytest.raises(SignatureError):
        metadata.refresh(ROOT, None, read, ISSUED)
    assert len(asked) == 1 + ROLES.index(role)


def test_names_of_files_carry_versions() -> None:
    def bare(root: Root) -> None:
        root.consistent_snapshot = False

    with pytest.raises(MalformedError, match="not named by their version"):
        follow(ROOT, SIGNER.root_file(2, edit=bare))


# --- what time it is, by those who signed ---------------------------------------------------------


def test_each_signer_says_what_time_it_was() -> None:
    for role in ROLES:

        def later(part: Any) -> None:
            part.unrecognized_fields["x-issued"] = "2027-01-01T00:00:00Z"

        found = SIGNER.metadata(LISTED, edit={role: later})
        assert refresh(found).times == times(found)
        assert refresh(found).issued == datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
    assert refresh(FIRST).times == tuple(
        sorted(
            [
                SignedTime(SIGNER.targets[0].public, online=False, at=ISSUED),
                SignedTime(SIGNER.timestamp[0].public, online=True, at=ISSUED),
            ]
        )
    )


def test_the_timestamp_s_key_alone_moves_time_by_a_span_at_most() -> None:
    def far(part: Any) -> None:
        part.unrecognized_fields["x-issued"] = "2099-01-01T00:00:00Z"
        part.expires = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)

    found = SIGNER.metadata(LISTED, edit={"timestamp": far})
    assert refresh(found).issued == ISSUED + floor.SPAN


def test_a_publisher_says_nothing_of_the_time() -> None:
    def far(part: Any) -> None:
        part.unrecognized_fields["x-issued"] = "2099-01-01T00:00:00Z"
        part.expires = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)

    vendor = Publisher.new(edit=far)
    assert refresh(SIGNER.metadata(LISTED, publishers=[vendor])).times == times(FIRST)


def test_only_keys_that_signed_and_are_in_force_say_what_time_it_was() -> None:
    two = replace(SIGNER, targets=[*SIGNER.targets, new_key()])
    one = {"targets": SIGNER.targets, "snapshot": SIGNER.targets}
    root, signed = two.root_file(), two.metadata(LISTED, by=one)
    assert {row.key for row in times(signed, root)} == {
        key.public for key in (*SIGNER.targets, *SIGNER.timestamp)
    }
    replaced = SIGNER.rotated("targets", "timestamp").root_file(2, by=SIGNER.root)
    assert times(FIRST, replaced) == ()
    rows = metadata.signed_times(replaced, [ROOT, replaced], FIRST)
    assert {row.key for row in rows} == {key.public for key in SIGNER.root}


def test_a_root_s_keys_are_known_by_their_use() -> None:
    assert metadata.key_uses(ROOT) == {
        *((key.public, False) for key in (*SIGNER.root, *SIGNER.targets)),
        (SIGNER.timestamp[0].public, True),
    }


def times(roles: RoleSet, root: bytes = ROOT) -> tuple[SignedTime, ...]:
    return metadata.signed_times(root, [], roles)


def _with(roles: RoleSet, role: str, data: bytes) -> RoleSet:
    parts = {**roles.by_role(), role: data}
    delegated = {name: part for name, part in parts.items() if name not in ROLES}
    return RoleSet(parts["timestamp"], parts["snapshot"], parts["targets"], delegated)


def test_the_helper_signs_what_it_says() -> None:
    signed = Metadata[Any].from_bytes(SIGNER.metadata(LISTED, (3, 2, 1)).timestamp).signed
    assert (signed.version, signed.snapshot_meta.version) == (3, 2)
