"""Which variants leave a store that is too full, and who holds each of the others.

Nobody's running, desired, previous, staged or pinned variant ever leaves; when those alone are too
much, the answer says by how many bytes. A blob that several variants share goes with the last of
them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from appliance.core.ids import Digest
from appliance.core.quantity import format_bytes
from appliance.planner.select import version_key


class PinKind(StrEnum):
    """Why a variant must stay."""

    RUNNING = "running"
    DESIRED = "desired"
    PREVIOUS = "previous"
    STAGED = "staged"
    SITE = "site-pinned"


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One reason to keep a variant; ``holder`` is a deployment, or who pinned it and why."""

    kind: PinKind
    holder: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.holder}"


@dataclass(frozen=True, slots=True)
class DiskBudget:
    """What the Site allows. ``store_bytes`` is None when nobody set a limit."""

    store_bytes: int | None = None
    floor_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DiskUse:
    """How the disk is: what the store takes, and what is free."""

    used_bytes: int
    free_bytes: int

    def shortfall(self, budget: DiskBudget) -> int:
        """Return the bytes that must go before the budget and the floor hold."""
        over = 0
        if budget.store_bytes is not None:
            over = self.used_bytes - budget.store_bytes
        return max(0, over, budget.floor_bytes - self.free_bytes)


@dataclass(frozen=True, slots=True)
class Held:
    """A variant in the store. ``last_use`` is a time as RFC 3339 text, the import's if unused."""

    manifest: Digest
    model: str
    version: str
    reference: str
    blobs: Mapping[Digest, int]
    last_use: str
    pins: tuple[Pin, ...] = ()


@dataclass(frozen=True, slots=True)
class Eviction:
    """A variant that goes, the blobs that go with it, and why it rather than another."""

    manifest: Digest
    reference: str
    frees: tuple[Digest, ...]
    freed_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A variant that stays, and why."""

    manifest: Digest
    reference: str
    why: str


@dataclass(frozen=True, slots=True)
class Retention:
    """The answer. ``short_bytes`` is what is still too much when all that may go has gone."""

    evictions: tuple[Eviction, ...]
    kept: tuple[Kept, ...]
    short_bytes: int

    @property
    def freed_bytes(self) -> int:
        """What the evictions free together."""
        return sum(eviction.freed_bytes for eviction in self.evictions)


def retain(held: Iterable[Held], use: DiskUse, budget: DiskBudget) -> Retention:
    """Return what leaves the store so that budget and floor hold; see ``free_up``."""
    return free_up(held, use.shortfall(budget))


def free_up(held: Iterable[Held], short_bytes: int) -> Retention:
    """Return what leaves the store to free so many bytes, in order, and why the rest stays.

    An older version of a model that is here in a newer one goes first, then what was not used for
    longest, then what is largest. What would free nothing, because all its blobs belong to others
    that stay, is left alone.
    """
    variants = sorted(held, key=lambda v: v.manifest)
    pinned = {blob for v in variants if v.pins for blob in v.blobs}
    holders = Counter(blob for v in variants for blob in v.blobs)
    newest = _newest(variants)
    short, evictions = short_bytes, []
    stay = {v.manifest: _why_stays(v) for v in variants if v.pins or pinned.issuperset(v.blobs)}
    may_go = (v for v in variants if v.manifest not in stay)
    for variant in sorted(may_go, key=lambda v: _turn(v, newest)):
        if short <= 0:
            stay[variant.manifest] = "there is room for it"
            continue
        holders.subtract(variant.blobs.keys())
        frees = tuple(sorted(blob for blob in variant.blobs if not holders[blob]))
        freed = sum(variant.blobs[blob] for blob in frees)
        short -= freed
        why = _why_goes(variant, newest)
        evictions.append(Eviction(variant.manifest, variant.reference, frees, freed, why))
    kept = sorted((v for v in variants if v.manifest in stay), key=lambda v: v.reference)
    answer = tuple(Kept(v.manifest, v.reference, stay[v.manifest]) for v in kept)
    return Retention(tuple(evictions), answer, max(0, short))


def _newest(variants: Iterable[Held]) -> dict[str, str]:
    found: dict[str, str] = {}
    for variant in variants:
        known = found.get(variant.model)
        if known is None or version_key(variant.version) > version_key(known):
            found[variant.model] = variant.version
    return found


def _is_superseded(variant: Held, newest: Mapping[str, str]) -> bool:
    return version_key(variant.version) < version_key(newest[variant.model])


def _turn(variant: Held, newest: Mapping[str, str]) -> tuple[bool, str, int, Digest]:
    size = sum(variant.blobs.values())
    return not _is_superseded(variant, newest), variant.last_use, -size, variant.manifest


def _why_goes(variant: Held, newest: Mapping[str, str]) -> str:
    size = format_bytes(sum(variant.blobs.values()))
    unused = f"last used {variant.last_use}, {size}"
    if _is_superseded(variant, newest):
        return f"{newest[variant.model]} of {variant.model} is here; {unused}"
    return f"nobody holds it; {unused}"


def _why_stays(variant: Held) -> str:
    if variant.pins:
        return "; ".join(str(pin) for pin in variant.pins)
    return "all its blobs are held by others, so that it would free nothing"
