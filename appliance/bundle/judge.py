"""Whether a bundle may be believed: steps 1 to 8 of `TRUST.md`, "Importing a bundle".

What comes out is the list of what is wanted, each signed by somebody who may. Nothing but metadata
was read by then, and nothing but metadata was kept.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from appliance.bundle import modelpack
from appliance.bundle.reader import BundleReader
from appliance.core import wire
from appliance.errors import DowngradeError, MalformedError, ScopeError
from appliance.kit.clock import Clock
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.trust import floor, metadata
from appliance.trust.metadata import SignedTarget, Verified
from appliance.trust.store import DIRECTOR_PATH, Director, TrustStore

_MAX_DOCUMENT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Judged:
    """What a bundle brings, by the word of those who may say so."""

    name: str
    version: str
    wanted: tuple[SignedTarget, ...]


class Judge:
    """Judges bundles by one node's trust, and keeps the newer metadata that they bring."""

    def __init__(self, trust: TrustStore, ledger: Ledger, clock: Clock) -> None:
        self._trust = trust
        self._ledger = ledger
        self._clock = clock

    def judge(self, bundle: BundleReader) -> Judged:
        """Take steps 1 to 8.

        Raises:
            RefusedError: the bundle must not be believed; its subclass says which rule it broke.
        """
        offered = metadata.offered_roles(bundle.metadata)  # step 1
        self._advance_root(bundle)  # step 2
        now = floor.now(self._ledger.read(meta.floor), self._clock.utc())  # step 4
        verified = metadata.refresh(  # steps 3 and 5
            self._trust.root(), self._trust.roles(), offered, now.at
        )
        director = self._director(bundle, verified)  # step 6
        name, version = bundle.release()
        wanted = self._resolve(bundle, verified, name, version)  # step 7
        self._commit(verified, director)  # step 8
        return Judged(name, version, wanted)

    def _advance_root(self, bundle: BundleReader) -> None:
        for version, data in metadata.advance_root(self._trust.root(), bundle.root):
            self._trust.add_root(version, data)

    def _director(self, bundle: BundleReader, verified: Verified) -> Mapping[str, bytes]:
        """Read ``trust/*`` from top-level targets; an epoch never goes down."""
        listed = verified.targets.get(DIRECTOR_PATH)
        if listed is None or not verified.is_new:
            return {}
        data = bundle.document(listed.digest, listed.length, _MAX_DOCUMENT_BYTES)
        new, old = Director.parse(data), self._trust.director()
        if new.epoch < (highest := self._ledger.read(meta.director_epoch)):
            raise DowngradeError(f"director epoch {new.epoch} is below {highest}")
        if old is not None and new.org != old.org:
            raise ScopeError(f"signed for {new.org!r}, this node belongs to {old.org!r}")
        return {DIRECTOR_PATH: data}

    def _resolve(
        self, bundle: BundleReader, verified: Verified, name: str, version: str
    ) -> tuple[SignedTarget, ...]:
        path = f"releases/{name}/{version}.json"
        listed = verified.targets.get(path)
        if listed is None:
            raise DowngradeError(
                f"{name} {version} is not in the newest signed list that this node trusts",
                hint="ask for a bundle that was signed later; what runs goes on",
            )
        release = wire.loads(
            bundle.document(listed.digest, listed.length, _MAX_DOCUMENT_BYTES), what=path
        )
        paths = release.get("targets")
        if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
            raise MalformedError(f"{path} does not list what belongs to it")
        wanted = tuple(self._listed(verified, p) for p in dict.fromkeys(paths))
        if len({target.digest for target in wanted}) != len(wanted):
            raise MalformedError(f"{path} calls one manifest by two names")
        return wanted

    @staticmethod
    def _listed(verified: Verified, path: str) -> SignedTarget:
        target = verified.targets.get(path)
        if target is None:
            raise DowngradeError(f"{path} is wanted, but no longer in the signed list")
        if not path.startswith("models/") or target.media_type != modelpack.MANIFEST_TYPE:
            raise ScopeError(f"{path} of type {target.media_type} is not something to import here")
        return target

    def _commit(self, verified: Verified, documents: Mapping[str, bytes]) -> None:
        if not verified.is_new:
            return
        self._trust.commit(verified, documents)
        rederive(self._trust, self._ledger)


def rederive(trust: TrustStore, ledger: Ledger) -> None:
    """Step 8, and on start: bring what the ledger remembers up to the metadata in force."""
    roles, director = trust.roles(), trust.director()
    if roles is None:
        return
    issued, epoch = metadata.issued(roles), 0 if director is None else director.epoch

    def raised(db: sqlite3.Connection) -> None:
        meta.set_floor(db, issued)
        meta.set_director_epoch(db, epoch)

    ledger.record(raised).result()
