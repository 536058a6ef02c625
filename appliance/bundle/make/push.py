"""Putting a bundle into an OCI registry: what is missing there, in pieces, gone on with after cuts.

The order is that of a registry's own rules: blobs, then the manifests that name them, then the
index, and last the tag; so a push that ends early is never seen. Runs where bundles are built.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.registry import Reference, RegistryAccount
from appliance.bundle.media.registry_medium import (
    BUNDLE_TYPE,
    FILE_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    MOST_MANIFEST_BYTES,
    TITLE,
    Stored,
)
from appliance.core import wire
from appliance.core.ids import Digest, hex_of
from appliance.errors import (
    ApplianceError,
    CorruptError,
    NotFoundError,
    PeerUnreachableError,
    UsageError,
)
from appliance.kit.remote import Answer, CutError, Patience, Remote
from appliance.kit.throttle import Pace
from appliance.kit.weblink import Link, Login, Url

PIECE = 8 << 20
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_BLOBS = "blobs/sha256/"
OpenAt = Callable[[int], BinaryIO]
Progress = Callable[[str, int, int], None]
"""Told what is being sent, the bytes done and the bytes in all."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did."""

    reference: str
    digest: Digest
    files: int
    sent_bytes: int


@dataclass(slots=True)
class _Session:
    """An upload that the registry keeps until it is complete."""

    url: Url
    at: int = 0


class Pusher:
    """Pushes bundles to one place in one registry."""

    def __init__(
        self,
        reference: Reference,
        link: Link | None = None,
        login: Login | None = None,
        pace: Pace | None = None,
        progress: Progress = lambda _what, _done, _total: None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            UsageError: the place has no tag to put a bundle under.
        """
        if reference.tag is None or reference.digest is not None:
            raise UsageError(
                f"{reference} names no tag to push to", hint="oci://HOST/REPOSITORY:TAG"
            )
        self._reference = reference
        self._remote = Remote(link or Link(), RegistryAccount(reference.registry, login), pace)
        self._progress = progress
        self._sent = self._done = self._total = 0

    def push(self, folder: Path) -> Pushed:
        """Push a bundle's folder; what is there already is not sent again.

        Raises:
            NotFoundError: there is no bundle.
            CorruptError: a blob in it is not what its name says.
            UsageError: it has more files than a registry lists in one manifest.
            PeerUnreachableError: the registry does not answer, or refuses.
        """
        medium = FolderMedium(folder)
        if medium.size("tuf/timestamp.json") is None:
            raise NotFoundError(f"{folder} holds no bundle", hint="name the folder it was built in")
        try:
            return self._push(medium)
        finally:
            self._remote.close()

    def _push(self, medium: FolderMedium) -> Pushed:
        files = dict(_files(medium))
        manifest = wire.dumps(_file_manifest(files))
        if len(manifest) > MOST_MANIFEST_BYTES:
            raise UsageError(f"{len(files)} files are more than a registry lists in one manifest")
        self._total = sum({stored.digest: stored.size for stored in files.values()}.values())
        by_digest = {stored.digest: path for path, stored in files.items()}
        for path in by_digest.values():
            self._blob(medium, path, files[path])
        self._small_blob(_EMPTY)
        entries = [self._manifest(manifest, MANIFEST_TYPE, artifactType=BUNDLE_TYPE)]
        entries += [self._manifest(d, MANIFEST_TYPE) for d in _models(medium, set(by_digest))]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "artifactType": BUNDLE_TYPE}
        data = wire.dumps({**index, "manifests": entries})
        found = self._manifest(data, INDEX_TYPE, tag=self._reference.tag)
        digest = Digest(str(found["digest"]))
        return Pushed(str(self._reference), digest, len(files), self._sent)

    def _manifest(
        self, data: bytes, media_type: str, tag: str | None = None, **more: str
    ) -> dict[str, Any]:
        """Put a manifest, under its digest or a tag; return its descriptor."""
        digest = _digest(data)
        url = self._reference.manifest(tag or digest)
        self._remote.call("PUT", url, {"Content-Type": media_type}, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def _blob(self, medium: FolderMedium, path: str, stored: Stored) -> None:
        if not self._is_there(stored.digest):
            with medium.open(path) as file:
                if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != stored.digest:  # type: ignore[arg-type]
                    raise CorruptError(
                        f"{path} does not hold the bytes that its name says",
                        hint="build the bundle again",
                    )
            self._upload(lambda at: medium.open(path, at), stored)
            self._sent += stored.size
        self._done += stored.size
        self._progress("pushing", self._done, self._total)

    def _is_there(self, digest: Digest) -> bool:
        try:
            self._remote.call("HEAD", self._reference.blob(digest))
        except NotFoundError:
            return False
        return True

    def _small_blob(self, data: bytes) -> None:
        stored = Stored(_digest(data), len(data))
        if not self._is_there(stored.digest):
            self._upload(lambda at: io.BytesIO(data[at:]), stored)

    def _upload(self, open_at: OpenAt, stored: Stored) -> None:
        patience = Patience(self._remote, self._reference.uploads)
        session: _Session | None = None
        while True:
            try:
                session = session or self._begin()
                rest = self._send(open_at, stored, session, patience)
                self._complete(session.url, stored.digest, rest)
            except NotFoundError:
                patience.wait(CutError("the registry forgot what was sent"))
                session = None
            except CutError as cut:
                patience.wait(cut)
                session = self._asked(session) if session is not None else None
            else:
                return

    def _send(
        self,
        open_at: OpenAt,
        stored: Stored,
        session: _Session,
        patience: Patience,
    ) -> bytes:
        """Send all pieces but the last, from where the registry is; return the last."""
        with open_at(session.at) as file:
            while stored.size - session.at > PIECE:
                piece = file.read(PIECE)
                span = f"{session.at}-{session.at + len(piece) - 1}"
                headers = {"Content-Range": span, "Content-Type": "application/octet-stream"}
                answer = self._remote.once("PATCH", session.url, headers, piece)
                answer.close()
                if answer.status == 416:
                    raise CutError("the registry is at another place in the upload")
                session.url = self._led(session.url, answer)
                session.at += len(piece)
                patience.renew()
                self._progress("pushing", self._done + session.at, self._total)
            return file.read(stored.size - session.at)

    def _begin(self) -> _Session:
        url = self._reference.uploads
        return _Session(self._led(url, self._remote.call("POST", url, body=b"")))

    def _complete(self, url: Url, digest: Digest, rest: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        self._remote.once("PUT", url.with_query(f"digest={digest}"), headers, rest).close()

    def _asked(self, session: _Session) -> _Session | None:
        """Ask the registry how far an upload is; None when it does not know it any more."""
        try:
            answer = self._remote.call("GET", session.url)
        except ApplianceError:
            return None
        _, _, last = (answer.header("Range") or "").partition("-")
        if not last.isdigit() or len(last) > 15:
            return None
        at = int(last) + 1 if int(last) else 0
        return _Session(
            self._led(session.url, answer) if answer.header("Location") else session.url, at
        )

    def _led(self, url: Url, answer: Answer) -> Url:
        location = answer.header("Location")
        if not location:
            raise PeerUnreachableError(f"{url}: the registry does not say where to send it")
        return self._remote.led(self._reference.registry, url, location)


def _files(medium: FolderMedium) -> Iterator[tuple[str, Stored]]:
    """Yield the files of a bundle's folder; a blob's digest is its name, and proven when sent."""
    for path in sorted(medium.folder.rglob("*")):
        name = path.relative_to(medium.folder).as_posix()
        size = medium.size(name)
        if size is None:
            continue
        word = name.removeprefix(_BLOBS)
        if name.startswith(_BLOBS) and len(word) == len(hex_of(_digest(b""))):
            yield name, Stored(Digest(f"sha256:{word}"), size)
        else:
            with medium.open(name) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            yield name, Stored(Digest(f"sha256:{found}"), size)


def _file_manifest(files: dict[str, Stored]) -> dict[str, Any]:
    layers = [
        {
            "mediaType": FILE_TYPE,
            "digest": stored.digest,
            "size": stored.size,
            "annotations": {TITLE: path},
        }
        for path, stored in files.items()
    ]
    empty = {"mediaType": _EMPTY_TYPE, "digest": _digest(_EMPTY), "size": len(_EMPTY)}
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": BUNDLE_TYPE,
        "config": empty,
        "layers": layers,
    }


def _models(medium: FolderMedium, there: set[Digest]) -> Iterator[bytes]:
    """Yield the manifests in the bundle's index that a registry would take: all of theirs is there.

    They are for other tools, and a bundle is whole without them; a delta lacks what they name.
    """
    try:
        index = json.loads(medium.read("index.json", MOST_MANIFEST_BYTES))
        entries = [e for e in index["manifests"] if e.get("mediaType") == MANIFEST_TYPE]
    except (ApplianceError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for entry in entries:
        if entry.get("digest") in there:
            data = medium.read(_BLOBS + hex_of(entry["digest"]), MOST_MANIFEST_BYTES)
            if _named(data) <= there:
                yield data


def _named(manifest: bytes) -> set[Digest]:
    """Return the digests that a manifest names; one that is no manifest names what is nowhere."""
    try:
        found = json.loads(manifest)
        return {part["digest"] for part in [found["config"], *found["layers"]]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {Digest("")}


def _digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
