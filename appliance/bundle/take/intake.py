"""Getting a bundle's bytes: steps 9 to 13 of `TRUST.md`, "Importing a bundle".

What is already here is not copied. What comes lies in ``incoming/`` until all of it is proven; an
interrupted import leaves it there to be resumed, a refused one leaves nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.format import artifact, modelpack, rebuild
from appliance.bundle.format.artifact import Artefact, held
from appliance.bundle.format.content import Look
from appliance.bundle.format.modelpack import MAX_MANIFEST_BYTES, Descriptor, Pack
from appliance.bundle.media.queue import Step
from appliance.bundle.media.reader import BundleReader
from appliance.bundle.take import supply
from appliance.bundle.take.headers import look_confined
from appliance.bundle.take.judge import Judged
from appliance.bundle.take.supply import Source
from appliance.cache.blobs import BlobStore
from appliance.core.artefact import HeldArtefact
from appliance.core.documents import Disk
from appliance.core.ids import Digest
from appliance.core.model import Variant
from appliance.errors import CorruptError, MalformedError, NoSpaceError
from appliance.kit.files import free_bytes
from appliance.planner import space

Progress = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Housekeeping:
    """What the node around an import does for it.

    ``disk`` returns the site's budgets, if it has any. ``make_room`` evicts at least so many bytes
    of what nobody holds, sparing the blobs it is told, and returns what it freed; or frees nothing.
    ``quarantine`` puts a blob away that was found damaged. ``recheck`` hashes those that lie in the
    store and that this ledger has not verified, and puts away what is wrong. ``look`` looks into a
    file of a model.
    """

    disk: Callable[[], Disk | None] = lambda: None
    make_room: Callable[[int, Collection[Digest]], int] = lambda _needed, _keep: 0
    quarantine: Callable[[Digest], None] = lambda _: None
    recheck: Callable[[Collection[Digest]], None] = lambda _: None
    look: Look = look_confined
    fit: Callable[[Variant], str] = lambda _: ""


@dataclass(frozen=True, slots=True)
class Intake:
    """Gets one bundle's bytes into a node's store."""

    bundle: BundleReader
    blobs: BlobStore
    housekeeping: Housekeeping
    progress: Progress

    def manifests(self, judged: Judged) -> tuple[list[Pack], list[Artefact]]:
        """Step 10: read the manifests of what is wanted: models, and everything else.

        Raises:
            IncompleteError, CorruptError, MalformedError: one is not there, or is not one.
            RevokedError: it covers a blob that is denied by name.
        """
        packs, others = [], []
        for target in judged.wanted:
            data = self.bundle.document(target.digest, target.length, MAX_MANIFEST_BYTES)
            if target.path.startswith("models/"):
                packs.append(modelpack.read(target.path, target.digest, data))
            else:
                others.append(artifact.read(target.path, target.digest, data))
        for path, blobs in [(p.variant.path, p.blobs) for p in packs] + [
            (o.path, o.blobs) for o in others
        ]:
            for blob in blobs:
                judged.revoked.check(blob.digest, path)
        return packs, others

    def missing(self, parts: Iterable[Pack | Artefact]) -> list[Descriptor]:
        """Return the blobs that are not in the store, in the bundle's order."""
        wanted = {blob.digest: blob for part in parts for blob in part.blobs}
        return [blob for digest, blob in wanted.items() if not self.blobs.has(digest)]

    def needed(self, missing: Iterable[Descriptor]) -> int:
        """Return the bytes still to be written, by their signed lengths."""
        return sum(max(0, blob.size - self.blobs.kept(blob.digest)) for blob in missing)

    def require_space(self, needed: int, what: str, keep: Collection[Digest] = ()) -> None:
        """Step 9: say so before anything is written when there is no room.

        Args:
            needed: Bytes still to be written.
            what: What for, in the error.
            keep: Blobs that this import relies on. Without any, no room is made.

        Raises:
            NoSpaceError: not even after making room.
        """
        require_room(self.blobs, self.housekeeping, needed, what, keep)

    def sources(self, missing: Iterable[Descriptor]) -> dict[Digest, Source]:
        """Return where each missing blob comes from; see ``supply.sources``."""
        return supply.sources(self.bundle, self.blobs, missing)

    def receive(
        self,
        missing: list[Descriptor],
        sources: Mapping[Digest, Source],
        packs: Iterable[Pack],
        others: Iterable[Artefact],
    ) -> list[HeldArtefact]:
        """Steps 11 to 13: copy what is missing, prove it, and look into it.

        Returns:
            What is to be held besides models.

        Raises:
            IncompleteError, NoSpaceError, StateUnusableError: interrupted; what came stays.
            RefusedError: any other; nothing stays.
        """
        total, done = sum(blob.size for blob in missing), 0

        def told(count: int) -> None:
            nonlocal done
            done += count
            self.progress(Step("copying", done, total))

        try:
            for blob in missing:
                self._fetch(blob, sources[blob.digest], told)
            for pack in packs:
                modelpack.check(pack, self.blobs.open_received, self.housekeeping.look)
            return [held(other, self.blobs.open_received) for other in others]
        except (CorruptError, MalformedError):
            self.blobs.discard(blob.digest for blob in missing)
            raise

    def _fetch(self, blob: Descriptor, source: Source, told: Callable[[int], None]) -> None:
        try:
            self.blobs.fetch(source.open_at, blob.digest, blob.size, told)
        except CorruptError:
            for base in rebuild.damaged(source.bases):
                self.housekeeping.quarantine(base)
            raise


def require_room(
    blobs: BlobStore,
    housekeeping: Housekeeping,
    needed: int,
    what: str,
    keep: Collection[Digest] = (),
) -> None:
    """Say so before anything is written when a store has no room; see ``Intake.require_space``."""

    def room() -> space.Room:
        disk = housekeeping.disk() or Disk()
        return space.Room(
            free=free_bytes(blobs.incoming),
            stored=blobs.stored_bytes(),
            budget=None if disk.store is None else disk.store.size,
            floor=None if disk.floor is None else disk.floor.size,
        )

    lacking, why = space.lacking(needed, room())
    if lacking and keep and housekeeping.make_room(lacking, keep):
        lacking, why = space.lacking(needed, room())
    if lacking:
        raise NoSpaceError(
            f"there is no room for {what}: {why}; nothing was copied, what serves goes on",
            hint=f"free {-(-lacking >> 20)} MiB below {blobs.incoming}, see: appliance store ls",
        )


def incoming_lock(state: Path) -> Path:
    """Return the lock that every import, and every collection, holds."""
    return state / "incoming" / ".lock"
