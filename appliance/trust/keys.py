"""Ed25519 keys: made once, kept 0600, shown only by their public half (64 hex digits)."""

import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from appliance.errors import MalformedError, NotFoundError, StateUnusableError
from appliance.kit.files import translated, write_durably

_PUBLIC = re.compile(r"[0-9a-f]{64}")


class SigningKey:
    """A private key and its public half. Only this package touches ``private``."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public: str = private.public_key().public_bytes_raw().hex()

    @classmethod
    def create(cls, path: Path) -> "SigningKey":
        """Make a key and write it durably, readable by its owner only.

        Raises:
            StateUnusableError: a key is there already; it is never overwritten.
        """
        if path.exists():
            raise StateUnusableError(
                f"{path} is there already", hint="a key is never overwritten; name another folder"
            )
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durably(path, pem, mode=0o600)
        return cls(private)

    @classmethod
    def open(cls, path: Path) -> "SigningKey":
        """Read a key that ``create`` wrote.

        Raises:
            NotFoundError: no such file.
            StateUnusableError: not readable, or not an Ed25519 key.
        """
        try:
            with translated(f"reading the key {path}"):
                private = load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError as error:
            raise NotFoundError(f"no key at {path}") from error
        except (ValueError, TypeError) as error:
            raise StateUnusableError(f"{path} is not an unencrypted private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise StateUnusableError(f"{path} is not an Ed25519 key")
        return cls(private)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        return self.private.sign(message)


def public_key(text: object) -> str:
    """Return ``text`` as a public key.

    Raises:
        MalformedError: it is not 64 lower-case hex digits.
    """
    if not isinstance(text, str) or not _PUBLIC.fullmatch(text):
        raise MalformedError("a public key is 64 lower-case hex digits (Ed25519)")
    return text


def verifies(public: str, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is the key's own for exactly these bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
