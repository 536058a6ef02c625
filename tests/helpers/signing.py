"""Metadata and bundles as a holder of keys could make them, also those that ours never would."""

import datetime
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from appliance.bundle import modelpack
from appliance.core import wire
from appliance.kit.clock import rfc3339
from appliance.trust import floor
from appliance.trust.keys import SigningKey
from appliance.trust.metadata import RoleSet
from appliance.trust.store import DIRECTOR_PATH
from tests.helpers.gguf import small_llama

ORG = "acme"
ISSUED = floor.BUILT + datetime.timedelta(days=10)
LIFETIME = datetime.timedelta(days=180)
Edit = Callable[[Any], object]
"""Changes a role before it is signed."""


def new_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


def public(key: SigningKey) -> SSlibKey:
    return SSlibKey.from_crypto(key.private.public_key())


def target(data: bytes, media_type: str = "application/json") -> TargetFile:
    found = TargetFile.from_data("it", data, ["sha256"])
    found.unrecognized_fields["custom"] = {"mediaType": media_type}
    return found


@dataclass(frozen=True)
class Signer:
    """The private keys of every role; targets sign the snapshot too."""

    root: list[SigningKey]
    targets: list[SigningKey]
    timestamp: list[SigningKey]

    @classmethod
    def new(cls) -> "Signer":
        return cls([new_key(), new_key()], [new_key()], [new_key()])

    def rotated(self, *roles: str) -> "Signer":
        """Return a signer with a new key for these roles."""
        return replace(self, **{role: [new_key()] for role in roles})

    def root_file(
        self, version: int = 1, *, by: list[SigningKey] | None = None, edit: Edit | None = None
    ) -> bytes:
        """Return a root that names these keys, signed by its own root keys and by ``by``."""
        root = Root(version=version, consistent_snapshot=True)
        for role, keys in vars(self).items():
            for key in keys:
                root.add_key(public(key), role)
        for key in self.targets:
            root.add_key(public(key), "snapshot")
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
    ) -> RoleSet:
        """Return signed metadata; ``versions`` are those of timestamp, snapshot and targets.

        ``edit`` changes a role before it is signed; ``by`` has other keys sign it.
        """
        edit, by = edit or {}, by or {}
        keys = {
            "targets": self.targets,
            "snapshot": self.targets,
            "timestamp": self.timestamp,
            **by,
        }
        targets = Targets(version=versions[2], targets=dict(listed))
        targets_file = _signed(targets, keys["targets"], issued, edit.get("targets"))
        snapshot = Snapshot(version=versions[1])
        snapshot.meta["targets.json"] = MetaFile.from_data(versions[2], targets_file, ["sha256"])
        snapshot_file = _signed(snapshot, keys["snapshot"], issued, edit.get("snapshot"))
        timestamp = Timestamp(version=versions[0])
        timestamp.snapshot_meta = MetaFile.from_data(versions[1], snapshot_file, ["sha256"])
        timestamp_file = _signed(timestamp, keys["timestamp"], issued, edit.get("timestamp"))
        return RoleSet(timestamp_file, snapshot_file, targets_file)


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

    @property
    def blobs(self) -> dict[str, bytes]:
        found = {
            "weights": self.weights,
            "config": self.config,
            "manifest": wire.dumps(self.manifest),
            "release": wire.dumps(self.release),
        }
        return found if self.director is None else {**found, "director": self.director}

    def listed(self) -> dict[str, TargetFile]:
        """Return what the targets role says of this bundle."""
        blobs = self.blobs
        found = {
            self.path: target(blobs["manifest"], self.media_type),
            f"releases/{self.name}/{self.version}.json": target(blobs["release"]),
        }
        if self.director is not None:
            found[DIRECTOR_PATH] = target(self.director)
        return found

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
    for role in ("snapshot", "targets"):
        data = getattr(roles, role)
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
