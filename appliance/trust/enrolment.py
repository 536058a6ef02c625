"""A one-time token for enrolment: what a person carries from the hub to a new node.

It holds 128 random bits and the hash of the hub's authority. The bits never cross the network:
they make a key that signs the node's request beside the node's own, and the hub keeps only the
public half of that key, from which nobody finds the bits. So a token that was listened for, or read
out of the hub's database, enrols nothing; and the hash says whose certificates answer it.
"""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.errors import UsageError
from appliance.trust.keys import SigningKey

_SECRET_BYTES = 16
_PREFIX = "ea1-"
_TEXT = re.compile(r"ea1-[A-Za-z0-9_-]{64}")


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """A token: its secret bits, and the SHA-256 of the hub's authority as 64 hex digits."""

    secret: bytes = field(repr=False)
    authority: str

    @classmethod
    def create(cls, authority: str) -> "EnrolmentToken":
        """Make a token of a hub whose authority has this hash."""
        return cls(secrets.token_bytes(_SECRET_BYTES), authority)

    @classmethod
    def parse(cls, text: str) -> "EnrolmentToken":
        """Return the token in ``text``.

        Raises:
            UsageError: it is not one; the error shows nothing of it.
        """
        if not _TEXT.fullmatch(text):
            raise UsageError(
                "that is not a token for enrolment", hint="all of it, as hub token printed it"
            )
        data = base64.urlsafe_b64decode(text.removeprefix(_PREFIX))
        return cls(data[:_SECRET_BYTES], data[_SECRET_BYTES:].hex())

    @property
    def text(self) -> str:
        """What a person carries."""
        data = self.secret + bytes.fromhex(self.authority)
        return _PREFIX + base64.urlsafe_b64encode(data).decode()

    @property
    def id(self) -> str:
        """What the hub finds it by; says nothing of the secret."""
        return hashlib.sha256(b"appliance token id\0" + self.secret).hexdigest()[:32]

    @property
    def key(self) -> SigningKey:
        """The key that the secret makes."""
        seed = hashlib.sha256(b"appliance token key\0" + self.secret).digest()
        return SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
