"""What is shown of signatures: which count, which do not, and which nobody could check."""

from typing import Any

import pytest
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

from appliance.trust.inspect import SeenRole, seen_roles
from appliance.trust.keys import SigningKey
from tests.helpers.signing import ISSUED, Signer, _signed, new_key, public


@pytest.fixture
def signer() -> Signer:
    return Signer.new()


def seen(root: bytes | None, **files: bytes) -> dict[str, SeenRole]:
    renamed = {name.replace("__", "-"): data for name, data in files.items()}
    return {role.role: role for role in seen_roles(root, renamed)}


def test_signatures_of_others_do_not_count(signer: Signer) -> None:
    stranger = new_key()
    roles = signer.metadata({}, by={"targets": [stranger, *signer.targets]})
    found = seen(signer.root_file(), targets=roles.targets)["targets"]
    assert [key.public for key in found.signed] == [signer.targets[0].public]
    assert found.met is True
    roles = signer.metadata({}, by={"targets": [stranger]})
    found = seen(signer.root_file(), targets=roles.targets)["targets"]
    assert (found.signed, found.met) == ((), False)
    assert [key.public for key in found.unsigned] == [signer.targets[0].public]


def test_one_key_under_two_ids_counts_once(signer: Signer) -> None:
    (key,) = signer.targets
    again = SSlibKey("f" * 64, "ed25519", "ed25519", {"public": key.public})

    def twice(root: Any) -> None:
        root.add_key(again, "targets")
        root.roles["targets"].threshold = 2

    def both(part: Metadata[Any]) -> bytes:
        signature = next(iter(part.signatures.values())).signature
        part.signatures[again.keyid] = Signature(again.keyid, signature)
        return part.to_bytes()

    targets = both(Metadata[Any].from_bytes(signer.metadata({}).targets))
    found = seen(signer.root_file(edit=twice), targets=targets)["targets"]
    assert (len(found.signed), found.threshold, found.met) == (1, 2, False)


def test_a_publisher_is_judged_by_what_targets_say_of_it(signer: Signer) -> None:
    vendor = new_key()
    key = public(vendor)
    key.unrecognized_fields["x-name"] = "Vera Vendor"
    role = DelegatedRole("publisher-vera", [key.keyid], 1, True, paths=["models/vera/*/*/*"])

    def delegate(targets: Any) -> None:
        targets.delegations = Delegations({key.keyid: key}, {role.name: role})

    def by(signing: SigningKey) -> bytes:
        return _signed(Targets(version=1), [signing], ISSUED, None)

    targets = signer.metadata({}, edit={"targets": delegate}).targets
    found = seen(signer.root_file(), targets=targets, publisher__vera=by(vendor))
    assert found["publisher-vera"].met is True
    assert found["publisher-vera"].signed[0].name == "Vera Vendor"
    found = seen(signer.root_file(), targets=targets, publisher__vera=by(signer.targets[0]))
    assert found["publisher-vera"].met is False
    found = seen(signer.root_file(), targets=targets, publisher__mallory=by(vendor))
    assert found["publisher-mallory"].met is None
    assert found["publisher-mallory"].trouble


def test_without_a_root_ids_are_only_claims(signer: Signer) -> None:
    roles = signer.metadata({})
    found = seen(None, timestamp=roles.timestamp, targets=b"junk")
    assert found["timestamp"].met is None
    assert [key.public for key in found["timestamp"].signed] == [None]
    assert found["targets"].trouble


def test_a_publisher_under_targets_that_nobody_signed_is_not_checked(signer: Signer) -> None:
    vendor = new_key()
    key = public(vendor)
    role = DelegatedRole("publisher-vera", [key.keyid], 1, True, paths=["models/vera/*/*/*"])

    def delegate(targets: Any) -> None:
        targets.delegations = Delegations({key.keyid: key}, {role.name: role})

    forged = signer.metadata({}, edit={"targets": delegate}, by={"targets": [new_key()]}).targets
    own = _signed(Targets(version=1), [vendor], ISSUED, None)
    found = seen(signer.root_file(), targets=forged, publisher__vera=own)
    assert found["targets"].met is False
    assert found["publisher-vera"].met is None
