"""Whether a bundle may be believed: steps 1 to 8 of `TRUST.md`, "Importing a bundle".

What comes out is the list of what is wanted, each signed by somebody who may. Nothing but metadata
was read by then, and nothing but metadata was kept.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from appliance.bundle.media.reader import BundleReader
from appliance.cache import catalog
from appliance.core import wire
from appliance.core.model import Variant
from appliance.errors import DowngradeError, ExpiredError, MalformedError, ScopeError
from appliance.kit.clock import Clock
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.trust import documents, floor, metadata, remembered, scope
from appliance.trust.documents import (
    DIRECTOR_PATH,
    MAX_DOCUMENT_BYTES,
    REVOKED_PATH,
    Director,
    Revoked,
    TrustDocument,
)
from appliance.trust.listed import Listed
from appliance.trust.metadata import RoleSet, SignedTarget, Verified
from appliance.trust.store import TrustStore


@dataclass(frozen=True, slots=True)
class Judged:
    """What a bundle brings, by the word of those who may say so.

    ``wanted`` is of every family; ``revoked`` denies blobs that only their manifests name.
    """

    name: str
    version: str
    wanted: tuple[SignedTarget, ...]
    revoked: Revoked

    def family(self, name: str) -> tuple[SignedTarget, ...]:
        """Return what is wanted of one family: ``models``, ``images``, ``files`` or ``boms``."""
        return tuple(target for target in self.wanted if target.path.startswith(f"{name}/"))


class _Offered:
    """A bundle's metadata, each file of it read once, however often it is asked for."""

    def __init__(self, bundle: BundleReader, root: bytes, stored: RoleSet | None) -> None:
        self.bundle = bundle
        self.root = root
        self.stored = stored
        self._known: dict[str, bytes] = {}

    def read(self, name: str, cap: int) -> bytes:
        if name not in self._known:
            self._known[name] = self.bundle.metadata(name, cap)
        return self._known[name]


class Judge:
    """Judges bundles by one node's trust, and keeps the newer metadata that they bring."""

    def __init__(self, trust: TrustStore, ledger: Ledger, clock: Clock) -> None:
        self._trust = trust
        self._ledger = ledger
        self._clock = clock

    def judge(self, bundle: BundleReader, *, dry: bool = False) -> Judged:
        """Take steps 1 to 8.

        Args:
            bundle: What is offered; each of its files of metadata is read once.
            dry: Keep nothing of it, not even what was found good.

        Raises:
            RefusedError: the bundle must not be believed; its subclass says which rule it broke.
        """
        root = self._root(bundle, dry=dry)  # steps 2 and 3
        offered = _Offered(bundle, root, self._trust.roles())
        known, clock = self._ledger.read(meta.floor), self._clock.utc()
        now = floor.now(known, clock).at  # step 4
        try:
            verified, said = self._look(offered, now)
        except ExpiredError:
            earlier = self._without_the_hub(clock)
            if earlier >= now:
                raise
            verified, said = self._look(offered, earlier)
            if not self._replaces_who_answers(said):
                raise
        revoked = Revoked.parse(said[REVOKED_PATH]) if REVOKED_PATH in said else Revoked()
        if not verified.is_new:
            revoked = self._trust.revoked()
        name, version = bundle.release()
        wanted = self._resolve(bundle, Listed(verified.targets, revoked), name, version)  # step 7
        if verified.is_new and not dry:
            self._trust.commit(verified, said)  # step 8
        if not dry:  # also when the ledger had no room for it, the last time
            remembered.rederive(self._trust, self._ledger)
        return Judged(name, version, wanted, revoked)

    def _look(
        self, offered: "_Offered", now: datetime.datetime
    ) -> tuple[Verified, Mapping[str, bytes]]:
        verified = metadata.refresh(  # steps 1, 3 and 5
            offered.root, offered.stored, offered.read, now
        )
        return verified, self._documents(offered.bundle, verified, offered.root)  # step 6

    def _without_the_hub(self, clock: datetime.datetime) -> datetime.datetime:
        """Return what would count as now if the hub's sync keys had never answered.

        A thief of one can push the time 400 days ahead, beyond what new metadata is signed for. The
        list that takes the key away must not be refused for that.
        """
        director = self._trust.director()
        stolen = frozenset[str]() if director is None else director.sync_keys
        rows = self._ledger.read(meta.floor_rows)
        return floor.now(
            floor.of(row for row in rows if not (row.online and row.key in stolen)), clock
        ).at

    def _replaces_who_answers(self, said: Mapping[str, bytes]) -> bool:
        """Whether what a bundle says takes all of the present sync keys away."""
        before = self._trust.director()
        if before is None or DIRECTOR_PATH not in said:
            return False
        after = Director.parse(said[DIRECTOR_PATH])
        return after.epoch > before.epoch and not after.sync_keys & before.sync_keys

    def _root(self, bundle: BundleReader, *, dry: bool) -> bytes:
        """Keep each good root before the next is looked at; keys that went lose their say of time.

        What was kept stays, also when a later root is found to be bad.
        """
        before = root = self._trust.root()
        try:
            for version, data in metadata.advance_root(root, bundle.root):
                root = data
                if not dry:
                    self._trust.add_root(version, data)
        finally:
            if root != before and not dry:
                remembered.rederive(self._trust, self._ledger)
        return root

    def _documents(
        self, bundle: BundleReader, verified: Verified, root: bytes
    ) -> Mapping[str, bytes]:
        """Read ``trust/*`` from top-level targets; an epoch never goes down."""
        if not verified.is_new:
            return {}
        found = dict(_signed_documents(bundle, verified))
        said: dict[str, TrustDocument] = {
            path: documents.PARSERS[path](data) for path, data in found.items()
        }
        whose = self._ledger.read(meta.org)
        for path, document in said.items():
            if document.org != (whose := whose or document.org):
                raise ScopeError(f"{path} is signed for {document.org!r}, not for {whose!r}")
            highest = self._ledger.read(partial(meta.epoch, what=document.kind))
            if document.epoch < highest:
                raise DowngradeError(f"{document.kind} epoch {document.epoch} is below {highest}")
            if isinstance(document, Director):
                _check_apart(document, root, verified)
        return found

    def _resolve(
        self, bundle: BundleReader, listed: Listed, name: str, version: str
    ) -> tuple[SignedTarget, ...]:
        path = f"releases/{name}/{version}.json"
        release = listed.targets.get(path)
        if release is None or release.role != scope.TOP:
            raise DowngradeError(
                f"{name} {version} is not in the newest signed list that this node trusts",
                hint="ask for a bundle that was signed later; what runs goes on",
            )
        said = wire.loads(
            bundle.document(release.digest, release.length, MAX_DOCUMENT_BYTES), what=path
        )
        paths = said.get("targets")
        if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
            raise MalformedError(f"{path} does not list what belongs to it")
        wanted = tuple(_wanted(listed, p) for p in dict.fromkeys(paths))
        held = self._ledger.read(catalog.everything)
        for target in wanted:
            _check_displaces_nothing(target, listed, held)
        if len({target.digest for target in wanted}) != len(wanted):
            raise MalformedError(f"{path} calls one manifest by two names")
        return wanted


def _signed_documents(bundle: BundleReader, verified: Verified) -> Iterator[tuple[str, bytes]]:
    for path in documents.PARSERS:
        listed = verified.targets.get(path)
        if listed is not None and listed.role == scope.TOP:
            yield path, bundle.document(listed.digest, listed.length, MAX_DOCUMENT_BYTES)


def _check_apart(director: Director, root: bytes, verified: Verified) -> None:
    """The hub's keys lie on a machine with a link: none of them may be one that approves."""
    approving = {key for key, _ in metadata.key_uses(root)}
    approving |= metadata.publisher_keys(verified.roles)
    if approving & (director.keys | director.sync_keys):
        raise ScopeError("a key of the director holds a role in the organisation's metadata")


def _wanted(listed: Listed, path: str) -> SignedTarget:
    target = listed.targets.get(path)
    if target is None:
        raise DowngradeError(
            f"{path} is wanted, but no longer in the signed list",
            hint="a newer list is known here, which took it away: ask for a newer bundle",
        )
    scope.check_wanted(path, target.role, target.media_type)
    listed.revoked.check(target.digest, path)
    return target


def _check_displaces_nothing(target: SignedTarget, listed: Listed, held: Iterable[Variant]) -> None:
    """A publisher never takes the place of what another has signed: by its name, or by its bytes.

    The catalogue has one row for each. Top-level targets may: they speak for all.
    """
    if target.role == scope.TOP:
        return
    for row in held:
        theirs = listed.targets.get(row.path)
        if row.path == target.path or theirs is None or theirs.digest != row.manifest:
            continue
        named = [row.model, row.version, row.name] == target.path.split("/")[2:]
        if named or row.manifest == target.digest:
            raise ScopeError(
                f"{target.path} would take the place of {row.path}, which {theirs.role} signed",
                hint="ask for a list in which one of the two has another name",
            )
