"""What is declared under trust/ has an epoch that only rises."""

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from appliance.core.commands import Verb
from appliance.errors import MalformedError, UsageError
from appliance.trust import declarations
from appliance.trust.declarations import DIRECTOR_PATH, HUB_PATH, REVOKED_PATH
from appliance.trust.repository import Repository
from tests.helpers.signing import ISSUED, digest_of
from tests.unit.trust.test_repository import verified

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.init_solo(tmp_path / "keys", "acme", ISSUED)


def authority(*, ca: bool = True) -> tuple[bytes, bytes]:
    """Return a certificate and its private key, in PEM."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub")])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, ISSUED, ISSUED + datetime.timedelta(days=1)
    ).add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    pem = builder.sign(key, None).public_bytes(Encoding.PEM)
    return pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_revoked_digest_is_signed_with_its_reason(repository: Repository) -> None:
    assert repository.revoke_digest(DIGEST, "leaks prompts") == 1
    assert repository.revoke_digest(DIGEST, "leaks prompts") == 1
    assert repository.revoke_digest(DIGEST, "leaks prompts", stop=True) == 2
    published = repository.publish([], ISSUED)
    document = published.documents[REVOKED_PATH]
    assert json.loads(document) == {
        "org": "acme",
        "epoch": 2,
        "digests": [{"digest": DIGEST, "why": "leaks prompts", "stop": True}],
    }
    assert verified(published).targets[REVOKED_PATH].digest == digest_of(document)


@pytest.mark.parametrize(
    ("digest", "why"), [("ab" * 32, "x"), ("sha256:AB", "x"), (DIGEST, " "), (DIGEST, "a\x1b[2J")]
)
def test_what_is_no_digest_or_has_no_reason_is_not_revoked(
    repository: Repository, digest: str, why: str
) -> None:
    with pytest.raises(UsageError):
        repository.revoke_digest(digest, why)
    assert REVOKED_PATH not in repository.publish([], ISSUED).documents


def test_the_hub_s_authorities_are_named_without_what_else_lies_in_the_file(
    repository: Repository,
) -> None:
    (first, secret), (second, _) = authority(), authority()
    assert repository.name_ca([secret + first]) == 1
    assert repository.name_ca([first]) == 1
    assert repository.name_ca([first + second]) == 2
    document = repository.publish([], ISSUED).documents[HUB_PATH]
    assert json.loads(document) == {
        "org": "acme",
        "epoch": 2,
        "ca": [first.decode(), second.decode()],
    }
    assert b"PRIVATE" not in document


@pytest.mark.parametrize("data", [b"root:x:0:0:root:/root:/bin/sh\n", b""])
def test_a_file_that_is_no_certificate_is_named_with_what_to_do(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^/etc/passwd is not the PEM") as refused:
        declarations.authorities_in(data, "/etc/passwd")
    assert "appliance hub ca" in str(refused.value.hint)


def test_what_is_no_authority_is_not_named(repository: Repository) -> None:
    for pem in (b"", b"junk", authority(ca=False)[0], authority()[1]):
        with pytest.raises((MalformedError, UsageError)):
            repository.name_ca([pem])
    assert HUB_PATH not in repository.publish([], ISSUED).documents


def test_what_was_signed_elsewhere_is_taken_if_it_is_newer(repository: Repository) -> None:
    def taken(epoch: int, org: str = "acme") -> bool:
        data = json.dumps({"org": org, "epoch": epoch, "digests": []}).encode()
        return declarations.take(repository.folder, "acme", REVOKED_PATH, data)

    assert [taken(2), taken(1), taken(2), taken(3)] == [True, False, False, True]
    with pytest.raises(UsageError, match="is of 'other'"):
        taken(4, "other")
    assert repository.revoke_digest(DIGEST, "x") == 4


def hub_keys(**changes: object) -> dict[str, object]:
    return {"org": "acme", "epoch": 1, "director": "aa" * 32, "sync": "bb" * 32, **changes}


def verbs_named(repository: Repository) -> list[str]:
    return list(json.loads(repository.publish([], ISSUED).documents[DIRECTOR_PATH])["verbs"])


def test_a_director_may_use_all_verbs_or_those_that_are_named(repository: Repository) -> None:
    repository.name_director(hub_keys())
    assert verbs_named(repository) == sorted(Verb)
    assert repository.name_director(hub_keys(verbs=["hold", "hold", "restart-engine"])) == 1
    assert verbs_named(repository) == ["hold", "restart-engine"]
    repository.name_director(hub_keys(verbs=[]))
    assert verbs_named(repository) == []


def test_a_verb_that_there_is_not_cannot_be_permitted(repository: Repository) -> None:
    for verbs in (["reboot"], "hold", [1]):
        with pytest.raises((UsageError, MalformedError)):
            repository.name_director(hub_keys(verbs=verbs))
    repository.name_director(hub_keys())
    with pytest.raises(UsageError, match="of director epoch 1"):
        repository.name_director(hub_keys(director="cc" * 32))
