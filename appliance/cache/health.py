"""Notices what the store has lost, takes out what is damaged, and says what is wanted again.

A variant that lost a blob is not offered by ``catalog.variants`` any more, so nothing starts from
it; its row and its other blobs stay, and the blob that comes again, by whatever import, heals it.
"""

import logging
from collections.abc import Collection
from functools import partial

from appliance.cache import index, verify
from appliance.cache.index import BlobState, Wanted
from appliance.cache.inventory import Inventory
from appliance.cache.quarantine import Quarantine, relink
from appliance.cache.verify import Verdict
from appliance.core.ids import Digest
from appliance.ledger.streams import Fact, Stream

log = logging.getLogger(__name__)
_MOST_TOLD = 20


class Health:
    """How the blobs of one node are."""

    def __init__(self, inventory: Inventory) -> None:
        self.quarantine = Quarantine(inventory.state / "quarantine", inventory.store)
        self._inventory = inventory
        self._ledger = inventory.ledger

    def meet(self) -> int:
        """Trust no blob that this ledger never saw: not before it was hashed here.

        Call it before anything asks for blobs. Return how many there are.
        """
        known, present = self._ledger.read(index.rows), self._inventory.store.sizes()
        new = {digest: size for digest, size in present.items() if digest not in known}
        if new:
            self._ledger.record(partial(index.strangers, sizes=new)).result()
            log.warning("%d blobs of an earlier ledger are hashed before they are used", len(new))
        return len(new)

    def look(self) -> bool:
        """Bring the ledger's rows up to the folder; return whether that changes what may run."""
        inventory = self._inventory
        inventory.learn()
        present, needed = inventory.store.sizes(), inventory.needed()
        known = self._ledger.read(index.rows)
        here = {d for d, row in known.items() if row.state in (BlobState.OK, BlobState.RETURNED)}
        gone = [d for d in needed if d not in present and (d in here or d not in known)]
        has = inventory.store.blobs.has  # an import may have brought it since the folder was read
        lost = [digest for digest in gone if not has(digest) and not self._bring_back(digest)]
        new = {digest: size for digest, size in present.items() if digest not in here}
        stale = [digest for digest in known if digest not in present and digest not in needed]
        if new or stale:
            self._ledger.record(partial(index.appeared, new=new, stale=stale)).result()
        for digest in lost:
            state = BlobState.DAMAGED if self.quarantine.holds(digest) else BlobState.MISSING
            self._lose(digest, needed[digest], state, "its file is not in the store any more")
        return bool(lost)

    def judge(self, digest: Digest, verdict: Verdict) -> bool:
        """Act on what a look at a blob's bytes found; return whether that changes what may run."""
        now = self._inventory.circumstances()
        known = self._ledger.read(partial(index.row, digest=digest))
        if verdict.blake3 is not None:
            heals = known is not None and known.state is not BlobState.OK
            effect = index.healed if heals else index.verified
            facts = [Fact(Stream.EVENTS, "blob-healed", now.at, {"digest": digest})] * heals
            self._ledger.record(
                partial(effect, digest=digest, blake3=verdict.blake3, at=now.at), *facts
            ).result()
            return heals
        if verdict.is_there:
            self.quarantine.take(digest, self._inventory.variants(), now.now)
        size = 0 if known is None else known.size
        size = self._inventory.needed().get(digest, size)
        state = BlobState.DAMAGED if verdict.is_there else BlobState.MISSING
        self._lose(digest, size, state, verdict.why)
        return True

    def recheck(self, digests: Collection[Digest]) -> None:
        """Hash those of some blobs that lie in the store and were not verified by this ledger."""
        known = self._ledger.read(index.rows)
        for digest in sorted(digests):
            row = known.get(digest)
            if row is not None and row.state is BlobState.RETURNED:
                path = self._inventory.store.blobs.path(digest)
                self.judge(digest, verify.finish(verify.verify(path, digest)))

    def condemn(self, digest: Digest, why: str) -> None:
        """Take a blob out of the store that somebody else proved to be damaged."""
        self.judge(digest, Verdict(None, why))

    def wanted(self) -> list[Wanted]:
        """Return the blobs that this node had and needs again."""
        return self._ledger.read(index.wanted)

    def _bring_back(self, digest: Digest) -> bool:
        inventory = self._inventory
        return any(
            variant.weights == digest and relink(inventory.store, variant)
            for variant in inventory.variants()
        )

    def _lose(self, digest: Digest, size: int, state: BlobState, why: str) -> None:
        at = self._inventory.circumstances().at
        needs = self._ledger.read(index.needs)
        models = [
            r.reference for r in self._inventory.roots() if digest in needs.get(r.manifest, {})
        ]
        body = {"digest": digest, "size": size, "why": why, "models": models[:_MOST_TOLD]}
        log.error("%s is %s (%s) and wanted again for: %s", digest, state, why, ", ".join(models))
        self._ledger.record(
            partial(index.lost, digest=digest, size=size, state=state),
            Fact(Stream.EVENTS, f"blob-{state}", at, body),
            Fact(Stream.AUDIT, f"blob-{state}", at, body),
        ).result()
