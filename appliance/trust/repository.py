"""The signing side of TUF: the organisation's keys, and the metadata they sign.

A keys folder holds the private keys and the metadata signed so far. Nothing here runs on a node.
``--solo`` is the smallest honest arrangement: root 1 of 2 (one key belongs in a safe), targets 1.
"""

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from appliance.core import wire
from appliance.core.ids import NAME_ALLOWED, NAME_PATTERN, Digest, hex_of
from appliance.errors import NotFoundError, StateUnusableError, UsageError
from appliance.kit.clock import rfc3339
from appliance.kit.files import locked, make_folder, write_durably
from appliance.trust.envelope import whole
from appliance.trust.keys import SigningKey, public_key

LIFETIMES = {
    "root": datetime.timedelta(days=3650),
    "targets": datetime.timedelta(days=730),
    "snapshot": datetime.timedelta(days=730),
    "timestamp": datetime.timedelta(days=180),
}
"""How long metadata may be imported for. A stick travels slowly; running models never expire."""

DIRECTOR_PATH = "trust/director.json"
SOLO_KEYS = {"root": ["root-1", "root-2"], "targets": ["targets-1"], "timestamp": ["timestamp-1"]}
_SERIALIZER = JSONSerializer(compact=False)


@dataclass(frozen=True, slots=True)
class NewTarget:
    """Something to approve: the path it is approved under, and what its bytes must be."""

    path: str
    digest: Digest
    length: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Published:
    """Metadata to put into a bundle, by file name, and the small targets it refers to."""

    files: Mapping[str, bytes]
    documents: Mapping[str, bytes]


class Repository:
    """An organisation's keys folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._metadata = folder / "metadata"

    @classmethod
    def init_solo(cls, folder: Path, org: str, now: datetime.datetime) -> "Repository":
        """Make keys and a first root for one person.

        Raises:
            StateUnusableError: there are keys already, or the folder cannot be written.
        """
        if (folder / "metadata").exists():
            raise StateUnusableError(
                f"{folder} holds an organisation's keys already",
                hint="keys are never overwritten; name another folder",
            )
        make_folder(folder, mode=0o700)
        make_folder(folder / "metadata")
        keys = {
            name: SigningKey.create(folder / f"{name}.pem")
            for names in SOLO_KEYS.values()
            for name in names
        }
        repository = cls(folder)
        root = Root(version=1, expires=now + LIFETIMES["root"], consistent_snapshot=True)
        for role in ("root", "timestamp", "snapshot", "targets"):
            for name in SOLO_KEYS["targets" if role == "snapshot" else role]:
                root.add_key(_signer(keys[name]).public_key, role)
        repository._write("1.root.json", root, "root", now)
        write_durably(folder / "org.json", wire.dumps({"org": org}))
        return repository

    @property
    def org(self) -> str:
        """The organisation's name, as every envelope must carry it."""
        try:
            found = wire.loads((self.folder / "org.json").read_bytes(), what="org.json")
        except OSError as error:
            raise NotFoundError(
                f"{self.folder} holds no organisation's keys",
                hint=f"appliance keys init --solo {self.folder}",
            ) from error
        return str(found["org"])

    @property
    def roots(self) -> list[Path]:
        """The root chain, oldest first."""
        return sorted(self._metadata.glob("*.root.json"), key=lambda p: int(p.name.split(".")[0]))

    def name_director(self, hub: Mapping[str, Any]) -> int:
        """Write which hub may direct this fleet; signed with the next bundle. Return its epoch.

        Another hub, or the same with new keys, begins a new epoch, and must know it: a node
        refuses what was signed under another.

        Args:
            hub: ``{org, epoch, director, sync}`` as ``appliance hub keys`` prints it.

        Raises:
            MalformedError: a key or the epoch in it is not one.
            UsageError: it is another organisation's hub, or it is not of a new epoch.
        """
        if hub.get("org") != self.org:
            raise UsageError(f"that hub is of {hub.get('org')!r}, these keys are of {self.org!r}")
        path = self.folder / "director.json"
        known = json.loads(path.read_bytes()) if path.exists() else {"epoch": 0}
        named = {"keys": [public_key(hub.get("director"))], "sync": [public_key(hub.get("sync"))]}
        epoch, in_force = whole(dict(hub), "epoch"), int(known["epoch"])
        if epoch == in_force and {name: known.get(name) for name in named} == named:
            return epoch
        if epoch <= in_force:
            raise UsageError(
                f"that hub is of director epoch {epoch}; {in_force} is in force for another",
                hint=f"on that hub: appliance hub raise-epoch {in_force + 1}, then hub keys again",
            )
        document = {"org": self.org, "epoch": epoch, **named, "sites": ["*"], "verbs": []}
        write_durably(path, wire.dumps(document))
        return epoch

    def publish(self, targets: list[NewTarget], now: datetime.datetime) -> Published:
        """Approve ``targets`` beside everything approved so far, and sign the result.

        Raises:
            NotFoundError: a key is not here.
            LockedError: somebody else signs with this folder now.
        """
        with locked(self.folder / ".lock", what=f"the keys folder {self.folder}"):
            return self._publish(targets, now)

    def _publish(self, targets: list[NewTarget], now: datetime.datetime) -> Published:
        documents: dict[str, bytes] = {}
        director = self.folder / "director.json"
        signed = self._targets()
        signed.targets.pop(DIRECTOR_PATH, None)
        if director.exists():
            data = documents[DIRECTOR_PATH] = director.read_bytes()
            signed.targets[DIRECTOR_PATH] = TargetFile.from_data(DIRECTOR_PATH, data, ["sha256"])
        for new in targets:
            signed.targets[new.path] = TargetFile(
                new.length,
                {"sha256": hex_of(new.digest)},
                new.path,
                {"custom": {"mediaType": new.media_type}},
            )
        signed.version = self._next("targets")
        targets_bytes = self._write(f"{signed.version}.targets.json", signed, "targets", now)
        snapshot = Snapshot(version=self._next("snapshot"))
        snapshot.meta["targets.json"] = MetaFile.from_data(
            signed.version, targets_bytes, ["sha256"]
        )
        snapshot_name = f"{snapshot.version}.snapshot.json"
        snapshot_bytes = self._write(snapshot_name, snapshot, "snapshot", now)
        timestamp = Timestamp(version=self._next("timestamp"))
        timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, snapshot_bytes, ["sha256"])
        files = {path.name: path.read_bytes() for path in self.roots}
        files[f"{signed.version}.targets.json"] = targets_bytes
        files[snapshot_name] = snapshot_bytes
        files["timestamp.json"] = self._write("timestamp.json", timestamp, "timestamp", now)
        return Published(files, documents)

    def _targets(self) -> Targets:
        newest = self._newest("targets")
        if newest is None:
            return Targets()
        return Metadata[Targets].from_file(str(newest)).signed

    def _next(self, role: str) -> int:
        if role == "timestamp":
            path = self._metadata / "timestamp.json"
            found = Metadata[Timestamp].from_file(str(path)).signed.version if path.exists() else 0
        else:
            newest = self._newest(role)
            found = int(newest.name.split(".")[0]) if newest else 0
        return found + 1

    def _newest(self, role: str) -> Path | None:
        found = self._metadata.glob(f"*.{role}.json")
        return max(found, key=lambda path: int(path.name.split(".")[0]), default=None)

    def _write(
        self,
        name: str,
        signed: Root | Timestamp | Snapshot | Targets,
        role: str,
        now: datetime.datetime,
    ) -> bytes:
        signed.expires = (now + LIFETIMES[role]).replace(microsecond=0)
        signed.unrecognized_fields["x-issued"] = rfc3339(now)
        metadata: Metadata[Any] = Metadata(signed)
        for key in SOLO_KEYS["targets" if role == "snapshot" else role]:
            metadata.sign(_signer(SigningKey.open(self.folder / f"{key}.pem")), append=True)
        data = metadata.to_bytes(_SERIALIZER)
        write_durably(self._metadata / name, data)
        return data


def org_name(text: str) -> str:
    """Return ``text`` as an organisation's name.

    Raises:
        UsageError: it is not one.
    """
    if not re.fullmatch(NAME_PATTERN, text):
        raise UsageError(f"{text!r} is not an organisation's name: {NAME_ALLOWED}")
    return text


def _signer(key: SigningKey) -> CryptoSigner:
    private = key.private
    return CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))
