"""A repository that serves whatever a test wants a client to meet, and notes what it asked for."""

import datetime
import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

NOW = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
TOP = ("root", "timestamp", "snapshot", "targets")
Edit = Callable[[Any], object]


class Repository:
    """Roles as they are being written, the files that were published, and the keys behind both."""

    def __init__(self) -> None:
        expires = NOW + 30 * DAY
        self.root = Root(expires=expires, consistent_snapshot=True)
        self.targets = Targets(expires=expires)
        self.roles: dict[str, Signed] = {
            "root": self.root,
            "timestamp": Timestamp(expires=expires),
            "snapshot": Snapshot(expires=expires),
            "targets": self.targets,
        }
        self.keys: dict[str, list[CryptoSigner]] = defaultdict(list)
        self.with_hashes = False
        self.files: dict[str, bytes] = {}
        """What is served, by its path: ``metadata/…`` and ``targets/…``."""
        self.asked: list[str] = []
        for role in TOP:
            self.add_key(role)
        self.publish("root", "targets", "snapshot", "timestamp")

    def role(self, name: str) -> Any:
        """Return the role as it is being written."""
        return self.roles[name]

    def metadata_asked(self) -> list[str]:
        """Return the files of metadata that were asked for, in order."""
        return [p.removeprefix("metadata/") for p in self.asked if p.startswith("metadata/")]

    def add_key(
        self, role: str, key: CryptoSigner | None = None, *, delegator: str = "root"
    ) -> CryptoSigner:
        """Have ``delegator`` trust one more key for a role, which signs it from now on."""
        key = key or CryptoSigner.generate_ed25519()
        self.role(delegator).add_key(key.public_key, role)
        self.keys[role].append(key)
        return key

    def rotate(self, role: str) -> None:
        """Replace every key of a top-level role by one new one."""
        self.root.roles[role].keyids.clear()
        self.keys[role].clear()
        self.add_key(role)

    def publish(self, *names: str, bump: bool = True, edit: Edit | None = None) -> None:
        """Sign roles anew, in this order, and serve them.

        Snapshot and timestamp describe what is published by then; ``edit`` may change that. The
        first version of a role is 1; ``bump`` raises that of a role which was published before.
        """
        for name in names:
            signed = self.role(name)
            if bump and self._is_published(name):
                signed.version += 1
            self._describe(signed)
            if edit is not None:
                edit(signed)
            self.serve(name, self.signed(name))

    def signed(self, name: str) -> bytes:
        """Return a role as it stands, signed by its keys."""
        part: Metadata[Any] = Metadata(self.role(name))
        for key in self.keys[name]:
            part.sign(key, append=True)
        return part.to_bytes()

    def serve(self, name: str, data: bytes, version: int | None = None) -> None:
        """Serve ``data`` as a role's file of this version, by default the role's own."""
        self.files[f"metadata/{self.file(name, version)}"] = data

    def file(self, name: str, version: int | None = None) -> str:
        """Return the name of a role's file."""
        if name == "timestamp":
            return "timestamp.json"
        prefix = f"{version or self.role(name).version}." if self._versioned(name) else ""
        return f"{prefix}{quote(name, safe='')}.json"

    def served(self, name: str, version: int | None = None) -> bytes:
        """Return a role's file as it is served."""
        return self.files[f"metadata/{self.file(name, version)}"]

    def add_target(
        self,
        path: str,
        data: bytes,
        *,
        role: str = "targets",
        hashes: Sequence[str] = ("sha256",),
    ) -> TargetFile:
        """List a target in a role that is not published yet, and serve its bytes."""
        target = TargetFile.from_data(path, data, list(hashes))
        self.role(role).targets[path] = target
        self.serve_target(target, data)
        return target

    def serve_target(self, target: TargetFile, data: bytes) -> None:
        """Serve ``data`` for a target, under the names that its hashes give it."""
        folder, slash, name = target.path.rpartition("/")
        for value in target.hashes.values():
            self.files[f"targets/{folder}{slash}{value}.{name}"] = data

    def delegate(
        self,
        delegator: str,
        name: str,
        paths: Sequence[str] = ("*",),
        *,
        terminating: bool = False,
    ) -> Targets:
        """Have one role delegate to another, under a new key of its own."""
        parent = self.role(delegator)
        if parent.delegations is None:
            parent.delegations = Delegations({}, {})
        parent.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, list(paths))
        if name not in self.roles:
            self.roles[name] = Targets(expires=NOW + 30 * DAY)
        self.add_key(name, delegator=delegator)
        found: Targets = self.role(name)
        return found

    def _describe(self, signed: Signed) -> None:
        if isinstance(signed, Snapshot):
            for name in self.roles:
                if isinstance(self.role(name), Targets) and self._is_published(name):
                    signed.meta[f"{name}.json"] = self._meta(name)
        elif isinstance(signed, Timestamp):
            signed.snapshot_meta = self._meta("snapshot")

    def _meta(self, name: str) -> MetaFile:
        version = self.role(name).version
        if not self.with_hashes:
            return MetaFile(version)
        return MetaFile.from_data(version, self.served(name), ["sha256"])

    def _is_published(self, name: str) -> bool:
        return f"metadata/{self.file(name)}" in self.files

    def _versioned(self, name: str) -> bool:
        return name == "root" or bool(self.root.consistent_snapshot)


class Server:
    """One web server for all repositories of a test run, each below its own folder."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        repositories = self.repositories

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                folder, _, path = self.path.removeprefix("/").partition("/")
                repository = repositories[folder]
                repository.asked.append(path)
                data = repository.files.get(path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                """Say nothing: what was asked for is noted."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def add(self, repository: Repository) -> str:
        """Serve a repository; return its address."""
        name = hashlib.sha256(str(len(self.repositories)).encode()).hexdigest()[:8]
        self.repositories[name] = repository
        return f"http://127.0.0.1:{self._http.server_port}/{name}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
