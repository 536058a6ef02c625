"""What a site approved for itself: a small list of targets, signed by a key of its own.

It is a TUF targets file like the organisation's, but it travels nowhere, so it has neither a
timestamp nor an end, and it names models below ``local/`` alone. Whoever can replace it can read
the key beside it: it guards against blobs that nobody approved, not against the node's own root.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from appliance.core.ids import LOCAL, digest, hex_of
from appliance.errors import MalformedError, NotFoundError, ScopeError, SignatureError
from appliance.kit.clock import rfc3339
from appliance.kit.files import make_folder, write_durably
from appliance.trust.keys import SigningKey
from appliance.trust.metadata import SignedTarget

KEY = Path("identity", "site.pem")
LIST = Path("tuf", LOCAL, "targets.json")
_MAX_LIST_BYTES = 16 << 20
_NEVER = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)


def listed(state: Path, taken: Iterable[str] = ()) -> Mapping[str, SignedTarget]:
    """Return what the site approved, by path; nothing when it never approved anything.

    Args:
        state: The node's state folder.
        taken: Names of models that the organisation holds: what has one of them is left out, for
            the site never shadows.

    Raises:
        SignatureError, MalformedError, ScopeError: the list is not one that this site's key made.
    """
    found, names = _read(state), frozenset(taken)
    return {t.path: t for t in map(_target, found.targets.values()) if _model(t.path) not in names}


def approve(state: Path, target: SignedTarget, now: datetime.datetime) -> None:
    """Put a target on the list, signed; the site's key is made when there is none.

    Raises:
        ScopeError: the path is not the site's to sign.
        SignatureError, MalformedError: the list that is there is not one.
        NoSpaceError, StateUnusableError: nothing was changed.
    """
    _check_path(target.path)
    signed = _read(state)
    signed.targets[target.path] = TargetFile(
        target.length,
        {"sha256": hex_of(target.digest)},
        target.path,
        {"custom": {"mediaType": target.media_type}},
    )
    _write(state, signed, now)


def withdraw(state: Path, paths: Iterable[str], now: datetime.datetime) -> None:
    """Take targets off the list; those that are not on it are not an error."""
    signed = _read(state)
    for path in paths:
        signed.targets.pop(path, None)
    _write(state, signed, now)


def organisation_models(paths: Iterable[str]) -> frozenset[str]:
    """Return the names of the models among what the organisation lists; a site takes none."""
    return frozenset(_model(path) for path in paths if path.startswith("models/"))


def _read(state: Path) -> Targets:
    try:
        with (state / LIST).open("rb") as file:
            data = file.read(_MAX_LIST_BYTES + 1)
    except FileNotFoundError:
        return Targets(version=1, expires=_NEVER)
    if len(data) > _MAX_LIST_BYTES:
        raise MalformedError("the site's own list is too large")
    with _read_as("the site's own list"):
        metadata = Metadata[Targets].from_bytes(data)
    try:
        key = _signer(SigningKey.open(state / KEY)).public_key
    except NotFoundError as error:
        raise SignatureError("the site's own list is here, and its key is not") from error
    try:
        key.verify_signature(metadata.signatures[key.keyid], metadata.signed_bytes)
    except (KeyError, UnverifiedSignatureError, VerificationError) as error:
        raise SignatureError(
            "the site's own list is not signed by this site's key",
            hint="remove tuf/local and add the models again",
        ) from error
    for path in metadata.signed.targets:
        _check_path(path)
    return metadata.signed


def _write(state: Path, signed: Targets, now: datetime.datetime) -> None:
    path = state / KEY
    key = SigningKey.open(path) if path.exists() else SigningKey.create(path)
    if (state / LIST).exists():
        signed.version += 1
    signed.expires = _NEVER
    signed.unrecognized_fields["x-issued"] = rfc3339(now)
    metadata: Metadata[Targets] = Metadata(signed)
    metadata.sign(_signer(key))
    make_folder((state / LIST).parent)
    write_durably(state / LIST, metadata.to_bytes(JSONSerializer(compact=False)))


def _target(found: TargetFile) -> SignedTarget:
    if set(found.hashes) != {"sha256"}:
        raise MalformedError(f"{found.path} is not listed by its sha256 alone")
    kind = found.custom.get("mediaType") if isinstance(found.custom, dict) else None
    try:
        hashed = digest(f"sha256:{found.hashes['sha256']}")
        return SignedTarget(found.path, hashed, found.length, kind, LOCAL)
    except ValueError as error:
        raise MalformedError(f"{found.path}: {error}") from error


def _check_path(path: str) -> None:
    parts = path.split("/")
    if len(parts) != 4 or parts[0] != LOCAL or not all(parts):
        raise ScopeError(f"{path} is not {LOCAL}/NAME/VERSION/VARIANT: the site may sign no other")


def _model(path: str) -> str:
    """Return the model's name in ``local/NAME/...`` or ``models/PUBLISHER/NAME/...``."""
    parts = path.split("/")
    return "".join(parts[1:2] if parts[0] == LOCAL else parts[2:3])


def _signer(key: SigningKey) -> CryptoSigner:
    return CryptoSigner(key.private, SSlibKey.from_crypto(key.private.public_key()))


@contextmanager
def _read_as(what: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"{what} cannot be read: {error}") from error
