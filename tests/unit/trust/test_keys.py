"""Keys are made once, kept 0600 and never overwritten."""

import subprocess
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

from appliance.errors import MalformedError, NotFoundError, StateUnusableError, UsageError
from appliance.trust import pkcs8
from appliance.trust.keys import (
    Keyring,
    PublicKey,
    SigningKey,
    create_pair,
    is_locked,
    public_key,
    verifies,
)
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
        (pem(new_key(), BestAvailableEncryption(b"secret")), "has a passphrase"),
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


# --- passphrases ----------------------------------------------------------------------------------

WORD = "correct horse battery"


def test_a_passphrase_opens_what_it_locked_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    made = SigningKey.create(path, WORD)
    assert path.stat().st_mode & 0o777 == 0o600
    assert is_locked(path.read_bytes())
    assert SigningKey.open(path, lambda _: WORD).public == made.public
    with pytest.raises(UsageError, match=r"that is not the passphrase of .*key\.pem"):
        SigningKey.open(path, lambda _: WORD.upper())
    with pytest.raises(StateUnusableError, match="has a passphrase"):
        SigningKey.open(path)


def test_a_passphrase_is_changed_added_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    made = SigningKey.create(path)
    for word in (WORD, "another horse, and longer", None):
        made.write(path, word)
        assert is_locked(path.read_bytes()) == (word is not None)
        assert SigningKey.open(path, {path: str(word)}.__getitem__).public == made.public
        assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key.pem"]


def test_a_short_passphrase_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 12 characters"):
        SigningKey.create(tmp_path / "key.pem", "horse")
    assert not list(tmp_path.iterdir())


def test_guessing_costs_what_it_should_and_openssl_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    made = SigningKey.create(path, WORD)
    assert pkcs8.ROUNDS >= 600_000
    done = subprocess.run(
        ["openssl", "pkey", "-in", path, "-passin", f"pass:{WORD}", "-pubout", "-outform", "DER"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.endswith(bytes.fromhex(made.public))
    text = subprocess.run(
        ["openssl", "asn1parse", "-in", path], capture_output=True, text=True, check=True
    ).stdout
    assert f":{pkcs8.ROUNDS:06X}" in text


def test_no_two_lockings_are_alike() -> None:
    key = new_key()
    assert pkcs8.locked(key.private, b"word") != pkcs8.locked(key.private, b"word")


# --- what is handed over --------------------------------------------------------------------------


def test_the_public_half_is_handed_over_under_a_name(tmp_path: Path) -> None:
    made = create_pair(tmp_path / "anna.pem")
    assert made == PublicKey.read(tmp_path / "anna.pub")
    assert (made.name, made.public) == ("anna", SigningKey.open(tmp_path / "anna.pem").public)
    (tmp_path / "anna.pem").unlink()
    with pytest.raises(StateUnusableError, match=r"anna\.pub is there already"):
        create_pair(tmp_path / "anna.pem")
    with pytest.raises(UsageError, match=r"is called NAME\.pem"):
        create_pair(tmp_path / "anna.key")
    with pytest.raises(UsageError, match="is not a key's name"):
        create_pair(tmp_path / "an na.pem")


def test_what_is_no_public_half_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "anna.pub"
    with pytest.raises(NotFoundError):
        PublicKey.read(path)
    good = '{"keytype":"ed25519","name":"anna","public":"%s"}'
    for text in (
        "", "[]", good % "ab", good.replace("ed25519", "rsa") % ("ab" * 32),
        good.replace('"name"', '"x":1,"name"') % ("ab" * 32),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(MalformedError):
            PublicKey.read(path)
    path.write_text(good.replace("anna", "\\u001b[2J") % ("ab" * 32))
    with pytest.raises(UsageError, match="is not a key's name"):
        PublicKey.read(path)


def test_a_ring_asks_only_for_the_key_that_signs_and_only_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(path: Path) -> str:
        asked.append(path.name)
        return WORD

    halves = [create_pair(tmp_path / f"{name}.pem", WORD) for name in ("a", "b")]
    ring = Keyring.of_folder(tmp_path, ask)
    assert ring.publics == {half.public for half in halves}
    assert asked == []
    for _ in range(2):
        assert ring.key(halves[1].public).public == halves[1].public
    assert asked == ["b.pem"]


def test_a_public_half_of_another_key_is_seen(tmp_path: Path) -> None:
    create_pair(tmp_path / "a.pem")
    other = PublicKey("a", new_key().public)
    other.write(tmp_path / "a.pub")
    with pytest.raises(StateUnusableError, match=r"a\.pub is not the public half"):
        Keyring.of_folder(tmp_path).key(other.public)
