"""Names that were checked once and are trusted from then on."""

import re
from typing import NewType

NodeId = NewType("NodeId", str)
"""A node's opaque, fleet-unique id: it is a topic level and a certificate's CN."""

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hex digits."""

LOCAL = "local"
"""The publisher of what a site signed for itself; no organisation may take that name."""

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
NAME_ALLOWED = "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
_NAME = re.compile(NAME_PATTERN)
_NODE = re.compile(r"[a-z0-9-]{1,63}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def name(text: str) -> str:
    """Return ``text`` as a name of something.

    Raises:
        ValueError: it is not 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a name: {NAME_ALLOWED}")
    return text


def node_id(text: str) -> NodeId:
    """Return ``text`` as a node id.

    Raises:
        ValueError: it is not 1 to 63 of a-z, 0-9 and -.
    """
    if not _NODE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a node id: 1 to 63 of a-z, 0-9 and -")
    return NodeId(text)


def digest(text: str) -> Digest:
    """Return ``text`` as a digest.

    Raises:
        ValueError: it is not ``sha256:`` with 64 lower-case hex digits.
    """
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text!r} is not a digest: sha256: and 64 lower-case hex digits")
    return Digest(text)


def hex_of(value: Digest) -> str:
    """Return the 64 hex digits of a digest, which name its blob."""
    return value.removeprefix("sha256:")
