"""Taking a bundle in: verify everything, then import all of it or nothing.

The steps and their order are those of `TRUST.md`, "Importing a bundle"; each is one defence. What a
refusal leaves behind: verified root rotations, from step 9 on the committed metadata, and an audit
record; never a blob or a catalogue row.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.intake import Housekeeping, Intake, incoming_lock
from appliance.bundle.judge import Judge, Judged
from appliance.bundle.medium import FolderMedium, Medium
from appliance.bundle.modelpack import Pack
from appliance.bundle.queue import Entry, ImportQueue, Step
from appliance.bundle.reader import BundleReader
from appliance.cache import catalog
from appliance.cache.store import ModelStore
from appliance.errors import ApplianceError, NoSpaceError
from appliance.kit.clock import Clock, rfc3339
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.trust.store import TrustStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import changed, or would change."""

    name: str
    version: str
    models: tuple[str, ...]
    added: tuple[str, ...]
    copied_bytes: int


Progress = Callable[[Step], None]


class Importer:
    """Imports bundles into one node's state. Blocking: give it a thread of its own."""

    def __init__(
        self, state: Path, trust: TrustStore, store: ModelStore, ledger: Ledger, clock: Clock,
        housekeeping: Housekeeping | None = None,
    ) -> None:  # fmt: skip
        self.queue = ImportQueue(incoming_lock(state))
        self._trust = trust
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._judge = Judge(trust, ledger, clock)
        self._housekeeping = housekeeping or Housekeeping()

    def run(
        self,
        source: Medium | Path,
        by: str,
        progress: Progress = lambda _: None,
        *,
        dry: bool = False,
    ) -> Imported:
        """Import a bundle; a second import waits for the first.

        Args:
            source: Where the bundle is; a path stands for the folder there.
            by: Who asked, for the audit stream.
            progress: Told at each step and each chunk, on this thread.
            dry: Verify and count only; change nothing, and write nothing down.

        Raises:
            RefusedError: the bundle must not be believed; its subclass says which rule it broke.
            NoSpaceError, NotFoundError, StateUnusableError: as their names say.
        """
        self._trust.root()  # says what to do when the node was never given one
        entry = Entry(str(source) if isinstance(source, Path) else source.name, by)

        def told(step: Step) -> None:
            entry.step = step
            progress(step)

        if self.queue.is_busy():
            told(entry.step)
        with self.queue.turn(entry):
            try:
                medium = FolderMedium(source) if isinstance(source, Path) else source
                return self._run(medium, by, told, dry=dry)
            except ApplianceError as error:
                if not dry:
                    self._note(by, "import-refused", {"code": error.code, "why": error.what})
                raise

    def _run(self, medium: Medium, by: str, progress: Progress, *, dry: bool) -> Imported:
        progress(Step("checking signatures"))
        bundle = BundleReader(medium)
        judged = self._judge.judge(bundle)  # steps 1 to 8
        intake = Intake(bundle, self._store.blobs, self._housekeeping, progress)
        packs = intake.manifests(judged.wanted)  # step 10, before 9:
        missing = intake.missing(packs)  # only manifests say which blobs there are
        needed = intake.needed(missing)
        intake.require_space(needed, f"{judged.name} {judged.version}")  # step 9
        if dry:
            return self._would(judged, packs, needed)
        intake.receive(missing, packs)  # steps 11 to 13
        total = sum(blob.size for blob in missing)
        progress(Step("writing the catalogue", total, total))
        self._store.blobs.admit(blob.digest for blob in missing)
        added = self._admit(judged, packs, by)  # step 14
        return Imported(judged.name, judged.version, _names(packs), added, total)

    def _would(self, judged: Judged, packs: list[Pack], needed: int) -> Imported:
        held = self._ledger.read(catalog.digests)
        added = tuple(p.variant.reference for p in packs if p.variant.manifest not in held)
        return Imported(judged.name, judged.version, _names(packs), added, needed)

    def _admit(self, judged: Judged, packs: list[Pack], by: str) -> tuple[str, ...]:
        at = rfc3339(self._clock.utc())
        body = {
            "by": by,
            "bundle": judged.name,
            "version": judged.version,
            "models": {pack.variant.reference: pack.variant.manifest for pack in packs},
        }
        added = self._ledger.record(
            lambda db: tuple(
                pack.variant.reference for pack in packs if catalog.add(db, pack.variant, at)
            ),
            Fact(Stream.AUDIT, "import", at, body),
        ).result()
        self._publish_index()
        return added

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


def _names(packs: list[Pack]) -> tuple[str, ...]:
    return tuple(pack.variant.reference for pack in packs)
