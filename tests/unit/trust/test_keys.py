"""Keys are made once, kept 0600 and never overwritten."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from appliance.errors import MalformedError, NotFoundError, StateUnusableError
from appliance.trust.keys import SigningKey, public_key, verifies
from tests.helpers.signing import new_key


def pem(key: SigningKey | ec.EllipticCurvePrivateKey, lock: KeySerializationEncryption) -> bytes:
    private = key.private if isinstance(key, SigningKey) else key
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def test_a_key_survives_on_disk_for_its_owner_only(tmp_path: Path) -> None:
    made = SigningKey.create(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    again = SigningKey.open(tmp_path / "key.pem")
    assert again.public == made.public == public_key(made.public)
    assert verifies(made.public, again.sign(b"words"), b"words")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    SigningKey.create(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(StateUnusableError, match="is there already"):
        SigningKey.create(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == before


def test_what_is_no_key_of_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no key at"):
        SigningKey.open(tmp_path / "key.pem")
    with pytest.raises(StateUnusableError, match="Is a directory"):
        SigningKey.open(tmp_path)
    for data, why in (
        (b"", "not an unencrypted private key"),
        (pem(new_key(), BestAvailableEncryption(b"secret")), "not an unencrypted private key"),
        (pem(ec.generate_private_key(ec.SECP256R1()), NoEncryption()), "not an Ed25519 key"),
    ):
        (tmp_path / "key.pem").write_bytes(data)
        with pytest.raises(StateUnusableError, match=why):
            SigningKey.open(tmp_path / "key.pem")


def test_a_signature_is_good_for_one_key_and_one_message() -> None:
    key, other = new_key(), new_key()
    signature = key.sign(b"words")
    assert not verifies(other.public, signature, b"words")
    assert not verifies(key.public, signature, b"other words")
    assert not verifies(key.public, signature[:-1], b"words")
    assert not verifies(key.public, b"", b"words")
    assert not verifies("not hex", signature, b"words")
    assert not verifies(key.public[:-2], signature, b"words")


@pytest.mark.parametrize("text", ["", "ab" * 31, "AB" * 32, "ab" * 32 + "\n", " " * 64, None, 7])
def test_a_public_key_is_spelt_in_one_way(text: object) -> None:
    with pytest.raises(MalformedError, match="64 lower-case hex digits"):
        public_key(text)
