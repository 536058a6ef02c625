"""Metadata and bundles as a holder of keys could make them, also those that ours never would."""

import datetime
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from appliance.bundle.format import modelpack
from appliance.core import wire
from appliance.core.ids import hex_of
from appliance.core.model import Variant
from appliance.errors import IncompleteError
from appliance.kit.clock import rfc3339
from appliance.trust import floor, metadata
from appliance.trust.documents import DIRECTOR_PATH, HUB_PATH, REVOKED_PATH
from appliance.trust.keys import SigningKey
from appliance.trust.metadata import RoleSet
from appliance.trust.store import TrustStore
from appliance.trust.workflow import Read
from tests.helpers.gguf import small_llama

ORG = "acme"
ISSUED = floor.BUILT + datetime.timedelta(days=10)
LIFETIME = datetime.timedelta(days=180)
Edit = Callable[[Any], object]
"""Changes a role before it is signed."""


def new_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


class SecondId(SigningKey):
    """A key that goes by a second id, so that it seems to be two."""


def public(key: SigningKey) -> SSlibKey:
    found = SSlibKey.from_crypto(key.private.public_key())
    if isinstance(key, SecondId):
        found.keyid = "f" * 64
    return found


def target(data: bytes, media_type: str = "application/json") -> TargetFile:
    found = TargetFile.from_data("it", data, ["sha256"])
    found.unrecognized_fields["custom"] = {"mediaType": media_type}
    return found


@dataclass(frozen=True)
class Publisher:
    """A vendor to whom targets delegate, and what it signs.

    ``by`` has other keys sign; ``edit`` changes the list before that, ``edit_role`` the delegation.
    """

    name: str
    keys: list[SigningKey]
    listed: Mapping[str, TargetFile] = field(default_factory=dict)
    version: int = 1
    threshold: int = 1
    by: list[SigningKey] | None = None
    edit: Edit | None = None
    edit_role: Edit | None = None

    @classmethod
    def new(cls, name: str = "vendor", keys: int = 1, **fields: Any) -> "Publisher":
        return cls(name, [new_key() for _ in range(keys)], **fields)

    @property
    def role(self) -> str:
        return f"publisher-{self.name}"

    def file(self, issued: datetime.datetime) -> bytes:
        """Return its signed list."""
        targets = Targets(version=self.version, targets=dict(self.listed))
        return _signed(targets, self.keys if self.by is None else self.by, issued, self.edit)

    def delegate(self, delegations: Delegations) -> None:
        """Add it to what targets delegate."""
        paths = [f"models/{self.name}/*/*/*"]
        keys = [public(key) for key in self.keys]
        ids = [key.keyid for key in keys]
        role = DelegatedRole(self.role, ids, self.threshold, terminating=True, paths=paths)
        delegations.keys.update({key.keyid: key for key in keys})
        if self.edit_role is not None:
            self.edit_role(role)
        assert delegations.roles is not None
        delegations.roles[role.name] = role


@dataclass(frozen=True)
class Signer:
    """The private keys of every role; targets sign the snapshot too.

    ``thresholds`` are those of roles that need more than one key.
    """

    root: list[SigningKey]
    targets: list[SigningKey]
    timestamp: list[SigningKey]
    thresholds: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def new(cls) -> "Signer":
        return cls([new_key(), new_key()], [new_key()], [new_key()])

    def rotated(self, *roles: str) -> "Signer":
        """Return a signer with a new key for these roles."""
        fresh: dict[str, Any] = {role: [new_key()] for role in roles}
        return replace(self, **fresh)

    def root_file(
        self, version: int = 1, *, by: list[SigningKey] | None = None, edit: Edit | None = None
    ) -> bytes:
        """Return a root that names these keys, signed by its own root keys and by ``by``."""
        root = Root(version=version, consistent_snapshot=True)
        for role in ("root", "targets", "timestamp"):
            for key in getattr(self, role):
                root.add_key(public(key), role)
        for key in self.targets:
            root.add_key(public(key), "snapshot")
        for role, threshold in self.thresholds.items():
            root.roles[role].threshold = threshold
        root.expires = ISSUED + datetime.timedelta(days=3650)
        return _signed(root, [*self.root, *(by or [])], ISSUED, edit)

    def metadata(
        self,
        listed: Mapping[str, TargetFile],
        versions: tuple[int, int, int] = (1, 1, 1),
        *,
        issued: datetime.datetime = ISSUED,
        edit: Mapping[str, Edit] | None = None,
        by: Mapping[str, list[SigningKey]] | None = None,
        publishers: Sequence[Publisher] = (),
        removed: Sequence[Publisher] = (),
    ) -> RoleSet:
        """Return signed metadata; ``versions`` are those of timestamp, snapshot and targets.

        ``edit`` changes a role before it is signed; ``by`` has other keys sign it. Targets delegate
        to ``publishers``; of the ``removed`` only the snapshot knows.
        """
        edit, by = edit or {}, by or {}
        keys = {
            "targets": self.targets,
            "snapshot": self.targets,
            "timestamp": self.timestamp,
            **by,
        }
        targets = Targets(version=versions[2], targets=dict(listed))
        if publishers:
            targets.delegations = Delegations({}, {})
            for publisher in publishers:
                publisher.delegate(targets.delegations)
        targets_file = _signed(targets, keys["targets"], issued, edit.get("targets"))
        snapshot = Snapshot(version=versions[1])
        snapshot.meta["targets.json"] = MetaFile.from_data(versions[2], targets_file, ["sha256"])
        delegated = {p.role: p.file(issued) for p in (*publishers, *removed)}
        for publisher in (*publishers, *removed):
            snapshot.meta[f"{publisher.role}.json"] = MetaFile.from_data(
                publisher.version, delegated[publisher.role], ["sha256"]
            )
        snapshot_file = _signed(snapshot, keys["snapshot"], issued, edit.get("snapshot"))
        timestamp = Timestamp(version=versions[0])
        timestamp.snapshot_meta = MetaFile.from_data(versions[1], snapshot_file, ["sha256"])
        timestamp_file = _signed(timestamp, keys["timestamp"], issued, edit.get("timestamp"))
        kept = {publisher.role: delegated[publisher.role] for publisher in publishers}
        return RoleSet(timestamp_file, snapshot_file, targets_file, kept)


def reading(roles: RoleSet) -> Read:
    """Return a way to ask for these roles as a bundle's files, whatever version is asked for."""
    parts = roles.by_role()

    def read(name: str, _: int) -> bytes:
        role = re.sub(r"^[0-9]+\.", "", name).removesuffix(".json")
        if role not in parts:
            raise IncompleteError(f"the bundle lacks {name}")
        return parts[role]

    return read


def _signed(
    part: Root | Timestamp | Snapshot | Targets,
    keys: list[SigningKey],
    issued: datetime.datetime,
    edit: Edit | None,
) -> bytes:
    if not isinstance(part, Root):
        part.expires = issued + LIFETIME
    part.unrecognized_fields["x-issued"] = rfc3339(issued)
    if edit is not None:
        edit(part)
    metadata: Metadata[Any] = Metadata(part)
    for key in keys:
        metadata.sign(CryptoSigner(key.private, public(key)), append=True)
    return metadata.to_bytes(JSONSerializer(compact=False))


def director(epoch: int = 1, org: str = ORG) -> bytes:
    keys = {"keys": ["aa" * 32], "sync": ["bb" * 32]}
    return wire.dumps({"org": org, "epoch": epoch, **keys, "sites": ["*"], "verbs": []})


class InForce:
    """What a node's ``tuf/`` says, put there as a whole whenever a test changes a part of it."""

    def __init__(self, folder: Path) -> None:
        self.trust = TrustStore(folder)
        self.trust.folder.mkdir(parents=True, exist_ok=True)
        self.listed: dict[str, TargetFile] = {}
        self.documents: dict[str, bytes] = {}
        self._signer = Signer.new()
        self._version = 0

    def put(self) -> None:
        """Have the node trust what is listed here now."""
        self._version += 1
        roles = self._signer.metadata(self.listed, (self._version,) * 3)
        verified = metadata.refresh(self._signer.root_file(), None, reading(roles), ISSUED)
        self.trust.commit(verified, self.documents)

    def list(self, *variants: Variant) -> None:
        """List these variants, as the organisation's own."""
        for v in variants:
            self.listed[v.path] = TargetFile(500, {"sha256": hex_of(v.manifest)}, v.path)
        self.put()


def hub(epoch: int = 1, org: str = ORG) -> bytes:
    return wire.dumps({"org": org, "epoch": epoch, "ca": [authority()]})


def revoked(*digests: str, epoch: int = 1, org: str = ORG, stop: bool = False) -> bytes:
    entries = [{"digest": digest, "why": "it leaks", "stop": stop} for digest in digests]
    return wire.dumps({"org": org, "epoch": epoch, "digests": entries})


@functools.cache
def authority() -> str:
    """Return a certificate authority's certificate."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a hub")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, ISSUED, ISSUED + LIFETIME)
    return builder.sign(key, None).public_bytes(Encoding.PEM).decode()


class Draft:
    """A bundle of one small model: right, until a test changes a part and has it signed as it is.

    ``blobs`` are the bytes that lie in the bundle, by what they are for.
    """

    def __init__(
        self, weights: bytes | None = None, *, name: str = "small", version: str = "1.0.0"
    ) -> None:
        self.name, self.version = name, version
        self.weights = small_llama() if weights is None else weights
        self.config = wire.dumps({"descriptor": {"name": name}, "config": {"format": "gguf"}})
        self.path = f"models/{ORG}/{name}/{version}/Q4_0"
        self.media_type = modelpack.MANIFEST_TYPE
        self.layer: dict[str, Any] = {
            "mediaType": modelpack.WEIGHT_TYPE,
            "digest": digest_of(self.weights),
            "size": len(self.weights),
            "annotations": {modelpack.FILEPATH: "model.gguf"},
        }
        self.manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": modelpack.MANIFEST_TYPE,
            "artifactType": modelpack.ARTIFACT_TYPE,
            "config": {
                "mediaType": modelpack.CONFIG_TYPE,
                "digest": digest_of(self.config),
                "size": len(self.config),
            },
            "layers": [self.layer],
            "annotations": {
                "org.opencontainers.image.licenses": "MIT",
                f"{modelpack.OURS}.capabilities": "chat,completions",
                f"{modelpack.OURS}.context": "8192",
                f"{modelpack.OURS}.kv-bytes-per-token": "23040",
            },
        }
        self.release: dict[str, Any] = {"name": name, "version": version, "targets": [self.path]}
        self.hint: object = {"name": name, "version": version}
        self.director: bytes | None = director()
        self.hub: bytes | None = None
        self.revoked: bytes | None = None
        self.publisher: Publisher | None = None
        """Who lists the model, when top-level targets do not."""

    @property
    def blobs(self) -> dict[str, bytes]:
        found = {
            "weights": self.weights,
            "config": self.config,
            "manifest": wire.dumps(self.manifest),
            "release": wire.dumps(self.release),
        }
        documents = {"director": self.director, "hub": self.hub, "revoked": self.revoked}
        return {**found, **{name: data for name, data in documents.items() if data is not None}}

    def listed(self) -> dict[str, TargetFile]:
        """Return what the targets role says of this bundle."""
        blobs = self.blobs
        found = {f"releases/{self.name}/{self.version}.json": target(blobs["release"])}
        if self.publisher is None:
            found[self.path] = target(blobs["manifest"], self.media_type)
        paths = {"director": DIRECTOR_PATH, "hub": HUB_PATH, "revoked": REVOKED_PATH}
        found.update({path: target(blobs[name]) for name, path in paths.items() if name in blobs})
        return found

    def publishers(self) -> list[Publisher]:
        """Return who lists the model, with it in the list."""
        if self.publisher is None:
            return []
        own = {self.path: target(self.blobs["manifest"], self.media_type)}
        return [replace(self.publisher, listed={**self.publisher.listed, **own})]

    def write(
        self,
        folder: Path,
        signer: Signer,
        versions: tuple[int, int, int] = (1, 1, 1),
        *,
        also: Mapping[str, TargetFile] | None = None,
        **how: Any,
    ) -> Path:
        """Sign it and write its folder; ``also`` is what else the targets role lists."""
        how = {"publishers": self.publishers(), **how}
        write_roles(folder, signer.metadata({**(also or {}), **self.listed()}, versions, **how))
        for data in self.blobs.values():
            blob_path(folder, data).parent.mkdir(parents=True, exist_ok=True)
            blob_path(folder, data).write_bytes(data)
        (folder / "bundle.json").write_bytes(wire.dumps(self.hint))
        return folder

    def file(self, folder: Path, what: str) -> Path:
        """Return the file in a written bundle that holds one blob or one role."""
        if what in self.blobs:
            return blob_path(folder, self.blobs[what])
        (found,) = folder.rglob(f"*{what}.json")
        return found


def write_roles(folder: Path, roles: RoleSet) -> None:
    """Write a bundle's metadata under the names that carry its versions."""
    (folder / "tuf").mkdir(parents=True, exist_ok=True)
    (folder / "tuf" / "timestamp.json").write_bytes(roles.timestamp)
    for role, data in roles.by_role().items():
        if role == "timestamp":
            continue
        version = Metadata[Any].from_bytes(data).signed.version
        (folder / "tuf" / f"{version}.{role}.json").write_bytes(data)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob_path(folder: Path, data: bytes) -> Path:
    return folder / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()


def flip(path: Path, at: int | None = None) -> None:
    """Flip one bit of a file, in the middle unless told otherwise."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
