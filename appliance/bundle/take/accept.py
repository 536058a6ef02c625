"""Taking a bundle in: verify everything, then import all of it or nothing.

The steps and their order are those of `TRUST.md`, "Importing a bundle"; each is one defence. What a
refusal leaves behind: verified root rotations, from step 9 on the committed metadata, and an audit
record; never a blob or a catalogue row.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance.bundle.format.artifact import Artefact
from appliance.bundle.format.modelpack import Descriptor, Pack
from appliance.bundle.media.medium import FolderMedium, Medium
from appliance.bundle.media.queue import Entry, ImportQueue, Step
from appliance.bundle.media.reader import BundleReader
from appliance.bundle.take.answers import AnswerTaker
from appliance.bundle.take.intake import Housekeeping, Intake, incoming_lock
from appliance.bundle.take.judge import Judge, Judged
from appliance.bundle.take.receipts import ReceiptBook
from appliance.cache import artefacts, catalog, index, roots
from appliance.cache.store import ModelStore
from appliance.core.artefact import HeldArtefact
from appliance.core.ids import LOCAL
from appliance.errors import ApplianceError, InterruptedImportError, NoSpaceError, RefusedError
from appliance.kit.clock import Clock, rfc3339
from appliance.ledger import budgets, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.trust import receipt
from appliance.trust.store import TrustStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import changed, or would change.

    ``added`` are the models that were not here before, ``others`` the paths of what is no model.
    ``does_not_fit`` says of models that cannot serve on this machine why not; ``displaced`` are the
    site's own models whose names are the organisation's from now on.
    """

    name: str
    version: str
    models: tuple[str, ...]
    others: tuple[str, ...]
    added: tuple[str, ...]
    copied_bytes: int
    does_not_fit: dict[str, str]
    displaced: tuple[str, ...] = ()


Progress = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class ImportParts:
    """What an import works with: the parts of one node."""

    state: Path
    trust: TrustStore
    store: ModelStore
    ledger: Ledger
    clock: Clock
    receipts: ReceiptBook
    answers: AnswerTaker
    housekeeping: Housekeeping = field(default_factory=Housekeeping)


class Importer:
    """Imports bundles into one node's state. Blocking: give it a thread of its own."""

    def __init__(self, parts: ImportParts) -> None:
        self.queue = ImportQueue(incoming_lock(parts.state))
        self._parts = parts
        self._judge = Judge(parts.trust, parts.ledger, parts.clock)

    @property
    def parts(self) -> ImportParts:
        """The node's parts, for whatever else takes models in."""
        return self._parts

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
        self._parts.trust.root()  # says what to do when the node was never given one
        if not dry:
            self._parts.ledger.read(budgets.require_audit)
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
                    self._note(error, by, entry.name)
                raise

    def _run(self, medium: Medium, by: str, progress: Progress, *, dry: bool) -> Imported:
        progress(Step("checking signatures"))
        bundle = BundleReader(medium)
        if not dry:
            self._parts.answers.take_along(medium)  # it may prove what time it is
        judged = self._judge.judge(bundle, dry=dry)  # steps 1 to 8
        intake = Intake(bundle, self._parts.store.blobs, self._parts.housekeeping, progress)
        packs, others = intake.manifests(judged)  # step 10, before 9:
        parts: list[Pack | Artefact] = [*packs, *others]
        if not dry:
            progress(Step("checking what is here"))
            self._parts.housekeeping.recheck({b.digest for part in parts for b in part.blobs})
        missing = intake.missing(parts)  # only manifests say which blobs there are
        needed, what = intake.needed(missing), f"{judged.name} {judged.version}"
        sources = intake.sources(missing)
        if dry:
            intake.require_space(needed, what)
            return self._imported(judged, packs, others, self._new(packs), needed)
        own = self._displaced(packs)
        keep = {blob.digest for part in parts for blob in part.blobs}
        keep.update(base for source in sources.values() for base in source.bases)
        intake.require_space(needed, what, keep)  # step 9
        held = intake.receive(missing, sources, packs, others)  # steps 11 to 13
        total = sum(blob.size for blob in missing)
        progress(Step("writing the catalogue", total, total))
        self._parts.store.blobs.admit(blob.digest for blob in missing)
        added = self._admit(judged, packs, held, missing, by)  # step 14
        return replace(self._imported(judged, packs, others, added, total), displaced=own)

    def _imported(
        self,
        judged: Judged,
        packs: list[Pack],
        others: list[Artefact],
        added: tuple[str, ...],
        count: int,
    ) -> Imported:
        fit = self._parts.housekeeping.fit
        verdicts = {p.variant.reference: fit(p.variant) for p in packs}
        return Imported(
            name=judged.name,
            version=judged.version,
            models=tuple(pack.variant.reference for pack in packs),
            others=tuple(other.path for other in others),
            added=added,
            copied_bytes=count,
            does_not_fit={name: why for name, why in verdicts.items() if why},
            displaced=self._displaced(packs),
        )

    def _displaced(self, packs: list[Pack]) -> tuple[str, ...]:
        """Return the site's own models that make way: no name is held twice."""
        known = self._parts.ledger.read(catalog.everything)
        own = {v.reference for v in known if v.publisher == LOCAL}
        return tuple(p.variant.reference for p in packs if p.variant.reference in own)

    def _new(self, packs: list[Pack]) -> tuple[str, ...]:
        """Return the models that are not here yet."""
        held = self._parts.ledger.read(catalog.digests)
        return tuple(p.variant.reference for p in packs if p.variant.manifest not in held)

    def _admit(
        self,
        judged: Judged,
        packs: list[Pack],
        held: list[HeldArtefact],
        admitted: list[Descriptor],
        by: str,
    ) -> tuple[str, ...]:
        at = rfc3339(self._parts.clock.utc())
        body = {
            "by": by,
            "bundle": judged.name,
            "version": judged.version,
            "models": {pack.variant.reference: pack.variant.manifest for pack in packs},
            "others": {other.path: other.manifest for other in held},
        }

        def effect(db: sqlite3.Connection) -> tuple[str, ...]:
            added = [p.variant.reference for p in packs if catalog.add(db, p.variant, at)]
            for other in held:
                artefacts.add(db, other, at)
            index.admitted(db, {blob.digest: blob.size for blob in admitted})
            streams.append(db, Fact(Stream.AUDIT, "import", at, body))
            self._parts.receipts.make(db, receipt.imported(judged.name, judged.version))
            return tuple(added)

        added = self._parts.ledger.record(effect).result()
        self._publish_index()
        return added

    def _publish_index(self) -> None:
        """Show other tools what is here. The import is over: it does not fail by this."""
        try:
            self._parts.store.publish_index(*self._parts.ledger.read(roots.shown))
        except ApplianceError as error:
            log.warning("index.json is as old as the last import until the next start: %s", error)

    def _note(self, error: ApplianceError, by: str, source: str) -> None:
        """Write down that an import ended so; of a refusal there is a receipt as well."""
        at, interrupted = (
            rfc3339(self._parts.clock.utc()),
            isinstance(error, InterruptedImportError),
        )
        body = {"by": by, "code": error.code, "why": error.what}
        fact = Fact(
            Stream.AUDIT, "import-interrupted" if interrupted else "import-refused", at, body
        )
        with contextlib.suppress(NoSpaceError):  # the refusal itself matters more than its record
            if isinstance(error, RefusedError) and not interrupted:
                event = receipt.refused(error, None, private=[source])
                self._parts.receipts.record(event, fact)
            else:
                self._parts.ledger.note(fact).result()
