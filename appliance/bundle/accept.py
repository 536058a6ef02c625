"""Taking a bundle in: verify everything, then import all of it or nothing.

The steps and their order are those of `TRUST.md`, "Importing a bundle"; each is one defence. What a
refusal leaves behind: verified root rotations, from step 9 on the committed metadata, and an audit
record; never a blob or a catalogue row.
"""

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import modelpack
from appliance.bundle.judge import Judge, Judged
from appliance.bundle.medium import FolderMedium
from appliance.bundle.modelpack import Descriptor, Pack
from appliance.bundle.reader import BundleReader
from appliance.cache import catalog
from appliance.cache.store import ModelStore
from appliance.core.gguf import read_header
from appliance.errors import (
    ApplianceError,
    MalformedError,
    NoSpaceError,
)
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.files import is_locked, locked, require_space
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.trust.metadata import SignedTarget
from appliance.trust.store import TrustStore

log = logging.getLogger(__name__)

_MAX_DOCUMENT_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20
"""Left free beside the bundle's own bytes: the reserve of DESIGN section 4."""


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is: bytes copied of the bytes that are missing here."""

    doing: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import changed."""

    name: str
    version: str
    models: tuple[str, ...]
    added: tuple[str, ...]
    copied_bytes: int


Progress = Callable[[Step], None]


class Importer:
    """Imports bundles into one node's state. Blocking: give it a thread of its own."""

    def __init__(
        self, state: Path, trust: TrustStore, store: ModelStore, ledger: Ledger, clock: Clock
    ) -> None:
        self._lock = state / "incoming" / ".lock"
        self._state = state
        self._trust = trust
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._judge = Judge(trust, ledger, clock)

    def run(self, folder: Path, by: str, progress: Progress = lambda _: None) -> Imported:
        """Import the bundle in ``folder``; a second import waits for the first.

        Args:
            folder: The bundle.
            by: Who asked, for the audit stream.
            progress: Told at each step and each chunk, on this thread.

        Raises:
            RefusedError: the bundle must not be believed; its subclass says which rule it broke.
            NoSpaceError, NotFoundError, StateUnusableError: as their names say.
        """
        self._trust.root()  # says what to do when the node was never given one
        if is_locked(self._lock):
            progress(Step("waiting for another import to end"))
        with locked(self._lock, what="the import folder", wait=True):
            try:
                return self._run(BundleReader(FolderMedium(folder)), by, progress)
            except ApplianceError as error:
                self._note(by, "import-refused", {"code": error.code, "why": error.what})
                raise

    def _run(self, bundle: BundleReader, by: str, progress: Progress) -> Imported:
        progress(Step("checking signatures"))
        judged = self._judge.judge(bundle)  # steps 1 to 8
        packs = [self._manifest(bundle, target) for target in judged.wanted]  # step 10, before 9:
        missing = self._missing(packs)  # only manifests say which blobs there are
        total = sum(blob.size for blob in missing)
        if missing:
            require_space(
                self._state, total + _SPARE_BYTES, what=f"{judged.name} {judged.version}"
            )  # step 9
        self._receive(bundle, packs, missing, progress)  # steps 11 to 13
        progress(Step("writing the catalogue", total, total))
        return self._admit(judged, packs, missing, by)  # step 14

    @staticmethod
    def _manifest(bundle: BundleReader, target: SignedTarget) -> Pack:
        data = bundle.document(target.digest, target.length, modelpack.MAX_MANIFEST_BYTES)
        return modelpack.read(target.path, target.digest, data)

    def _missing(self, packs: list[Pack]) -> list[Descriptor]:
        wanted = {blob.digest: blob for pack in packs for blob in pack.blobs}
        return [blob for digest, blob in wanted.items() if not self._store.blobs.has(digest)]

    def _receive(
        self,
        bundle: BundleReader,
        packs: list[Pack],
        missing: list[Descriptor],
        progress: Progress,
    ) -> None:
        total, done = sum(blob.size for blob in missing), 0

        def told(count: int) -> None:
            nonlocal done
            done += count
            progress(Step("copying", done, total))

        try:
            for blob in missing:
                with bundle.open_blob(blob.digest) as file:
                    self._store.blobs.receive(file, blob.digest, blob.size, told)
            for pack in packs:
                self._check_header(pack)
        except BaseException:
            self._store.blobs.discard(blob.digest for blob in missing)
            raise

    def _check_header(self, pack: Pack) -> None:
        with self._store.blobs.open_received(pack.variant.weights) as file:
            header = read_header(file)
            size = os.fstat(file.fileno()).st_size  # what was here already was not copied
        variant = pack.variant
        stated = (variant.weights_bytes, variant.context_max, variant.kv_bytes_per_token)
        if stated != (size, header.context_length, header.kv_bytes_per_token):
            raise MalformedError(
                f"the manifest of {variant.reference} describes another weight file"
            )

    def _admit(
        self, judged: Judged, packs: list[Pack], missing: list[Descriptor], by: str
    ) -> Imported:
        self._store.blobs.admit(blob.digest for blob in missing)
        at = rfc3339(self._clock.utc())
        name, version = judged.name, judged.version
        body = {
            "by": by,
            "bundle": name,
            "version": version,
            "models": {pack.variant.reference: pack.variant.manifest for pack in packs},
        }
        added = self._ledger.record(
            lambda db: tuple(
                pack.variant.reference for pack in packs if catalog.add(db, pack.variant, at)
            ),
            Fact(Stream.AUDIT, "import", at, body),
        ).result()
        self._publish_index()
        models = tuple(pack.variant.reference for pack in packs)
        return Imported(name, version, models, added, sum(blob.size for blob in missing))

    def _publish_index(self) -> None:
        """Show other tools what is here. The import is over: it does not fail by this."""
        try:
            self._store.publish_index(self._ledger.read(catalog.variants))
        except ApplianceError as error:
            log.warning("index.json is as old as the last import until the next start: %s", error)

    def _note(self, by: str, kind: str, body: dict[str, str]) -> None:
        at = rfc3339(self._clock.utc())
        with contextlib.suppress(NoSpaceError):  # the refusal itself matters more than its record
            self._ledger.note(Fact(Stream.AUDIT, kind, at, {"by": by, **body})).result()
