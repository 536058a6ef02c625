"""Ed25519 keys: made once, kept 0600, shown only by their public half (64 hex digits).

Beside a private key ``NAME.pem`` lies its public half ``NAME.pub``, a small JSON file that may be
handed to anybody. It says who holds a key whose private half is locked by a passphrase.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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

from appliance.core import wire
from appliance.errors import MalformedError, NotFoundError, StateUnusableError, UsageError
from appliance.kit.files import translated, write_durably
from appliance.trust import pkcs8

MIN_PASSPHRASE = 12
_MAX_KEY_BYTES = 64 << 10
_PUBLIC = re.compile(r"[0-9a-f]{64}")
_HOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_LOCKED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"

Passphrase = Callable[[Path], str]
"""Asks for the passphrase of the key in a file."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a person hands over: the public half of a key, and the name it goes by."""

    name: str
    public: str

    @classmethod
    def read(cls, path: Path) -> "PublicKey":
        """Read a ``.pub`` file.

        Raises:
            NotFoundError: it is not there.
            MalformedError: it is not one.
        """
        found = wire.loads(_read(path, "public key"), what=str(path))
        if set(found) != {"name", "keytype", "public"} or found["keytype"] != "ed25519":
            raise MalformedError(f"{path} is not the public half of a key (NAME.pub)")
        return cls(holder_name(found["name"]), public_key(found["public"]))

    def write(self, path: Path) -> None:
        """Write it as a ``.pub`` file."""
        document = {"name": self.name, "keytype": "ed25519", "public": self.public}
        write_durably(path, wire.dumps(document) + b"\n")


class Signer(Protocol):
    """Who signs as a key: a file here, or a chip (TPM, HSM) that never gives its key away."""

    @property
    def public(self) -> str:
        """The public half: 64 hex digits, Ed25519."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""


class SigningKey:
    """A private key in a file and its public half: the one ``Signer`` so far.

    Only this package touches ``private``.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public: str = private.public_key().public_bytes_raw().hex()

    @classmethod
    def create(cls, path: Path, passphrase: str | None = None) -> "SigningKey":
        """Make a key and write it durably, readable by its owner only.

        Raises:
            StateUnusableError: a key is there already; it is never overwritten.
            UsageError: the passphrase is too short.
        """
        if path.exists():
            raise StateUnusableError(
                f"{path} is there already", hint="a key is never overwritten; name another folder"
            )
        key = cls(Ed25519PrivateKey.generate())
        key.write(path, passphrase)
        return key

    @classmethod
    def open(cls, path: Path, passphrase: Passphrase | None = None) -> "SigningKey":
        """Read a key that ``create`` wrote; ``passphrase`` is asked only if the key has one.

        Raises:
            NotFoundError: no such file.
            UsageError: that is not its passphrase.
            StateUnusableError: not readable, not an Ed25519 key, or locked and nobody to ask.
        """
        data = _read(path, "key")
        word = None
        if is_locked(data):
            if passphrase is None:
                raise StateUnusableError(
                    f"{path} has a passphrase and is not an unencrypted private key",
                    hint="a service's key has none: appliance keys passphrase --remove",
                )
            word = passphrase(path).encode()
        try:
            private = load_pem_private_key(data, password=word)
        except (ValueError, TypeError) as error:
            if word is not None:
                raise UsageError(
                    f"that is not the passphrase of {path}", hint="nothing was changed; try again"
                ) from error
            raise StateUnusableError(f"{path} is not an unencrypted private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise StateUnusableError(f"{path} is not an Ed25519 key")
        return cls(private)

    def write(self, path: Path, passphrase: str | None) -> None:
        """Write the key durably, 0600, locked by ``passphrase`` if there is one.

        Raises:
            UsageError: the passphrase is too short.
        """
        if passphrase is not None and len(passphrase) < MIN_PASSPHRASE:
            raise UsageError(
                f"a passphrase has at least {MIN_PASSPHRASE} characters",
                hint="a few words that belong to nobody else; whoever finds the file will guess",
            )
        if passphrase is None:
            pem = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        else:
            pem = pkcs8.locked(self.private, passphrase.encode())
        write_durably(path, pem, mode=0o600)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        return self.private.sign(message)


class Keyring:
    """Private keys in files, found by their public half and opened only when they sign."""

    def __init__(self, paths: Iterable[Path], passphrase: Passphrase | None = None) -> None:
        """Look at the files; a key without its ``.pub`` beside it is opened to see who it is.

        Raises:
            NotFoundError, StateUnusableError, UsageError: as ``SigningKey.open`` says.
        """
        self._passphrase = passphrase
        self._opened: dict[Path, SigningKey] = {}
        self._paths = {self._public(path): path for path in paths}

    @classmethod
    def of_folder(cls, folder: Path, passphrase: Passphrase | None = None) -> "Keyring":
        """Return the keys that lie in a keys folder."""
        return cls(sorted(folder.glob("*.pem")), passphrase)

    def __contains__(self, public: str) -> bool:
        return public in self._paths

    def __or__(self, other: "Keyring") -> "Keyring":
        both = Keyring((), self._passphrase or other._passphrase)
        both._opened = {**other._opened, **self._opened}
        both._paths = {**other._paths, **self._paths}
        return both

    @property
    def publics(self) -> frozenset[str]:
        """The public halves of the keys in it."""
        return frozenset(self._paths)

    @property
    def halves(self) -> tuple[PublicKey, ...]:
        """The public halves, called as their files are."""
        return tuple(PublicKey(holder_name(path.stem), p) for p, path in self._paths.items())

    def key(self, public: str) -> SigningKey:
        """Return the key of a public half, asking for its passphrase once.

        Raises:
            StateUnusableError: the ``.pub`` beside it is another key's.
            UsageError: that is not its passphrase.
        """
        key = self._open(self._paths[public])
        if key.public != public:
            path = self._paths[public]
            raise StateUnusableError(f"{path.with_suffix('.pub')} is not the public half of {path}")
        return key

    def _public(self, path: Path) -> str:
        beside = path.with_suffix(".pub")
        if path.exists() and beside.exists():
            return PublicKey.read(beside).public
        return self._open(path).public

    def _open(self, path: Path) -> SigningKey:
        if path not in self._opened:
            self._opened[path] = SigningKey.open(path, self._passphrase)
        return self._opened[path]


def create_pair(path: Path, passphrase: str | None = None) -> PublicKey:
    """Make ``NAME.pem`` and ``NAME.pub``; return the half that may be handed over.

    Raises:
        StateUnusableError: one of them is there already.
        UsageError: the file's name does not end in ``.pem``, or names nobody.
    """
    if path.suffix != ".pem":
        raise UsageError(f"a private key's file is called NAME.pem, not {path.name}")
    name, beside = holder_name(path.stem), path.with_suffix(".pub")
    if beside.exists():
        raise StateUnusableError(f"{beside} is there already", hint="name another file")
    public = PublicKey(name, SigningKey.create(path, passphrase).public)
    public.write(beside)
    return public


def is_locked(pem: bytes) -> bool:
    """Whether a private key needs a passphrase."""
    return _LOCKED in pem


def holder_name(text: object) -> str:
    """Return ``text`` as the name that a key goes by; it is shown on terminals.

    Raises:
        UsageError: it is not one.
    """
    if not isinstance(text, str) or not _HOLDER.fullmatch(text):
        raise UsageError(
            f"{str(text)[:80]!r} is not a key's name: 1 to 63 of A-Z, a-z, 0-9 and ._@-"
        )
    return text


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


def _read(path: Path, what: str) -> bytes:
    try:
        with translated(f"reading the {what} {path}"), path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except FileNotFoundError as error:
        raise NotFoundError(f"no {what} at {path}") from error
