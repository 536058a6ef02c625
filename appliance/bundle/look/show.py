"""`bundle show`: what a bundle brings, who signed for it, and what of it is new here.

Data for people and for scripts. All text from the bundle is made printable here, once, so that no
caller has to remember; and what nobody checked is said to be unchecked.
"""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.format.rebuild import made_against
from appliance.bundle.look.contents import Blob, Contents, Item
from appliance.cache.blobs import BlobStore
from appliance.core.ids import Digest
from appliance.core.plain import plain
from appliance.errors import ApplianceError, NotFoundError
from appliance.kit.clock import rfc3339
from appliance.kit.files import translated
from appliance.trust import floor, metadata
from appliance.trust.inspect import SeenRole, seen_roles
from appliance.trust.metadata import RoleSet
from appliance.trust.store import TrustStore

NOT_CHECKED = "signatures not checked: no root given"
_REVOKED_PATH = "trust/revoked.json"
_MOST_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Site:
    """What a bundle is judged by: a root, and for a node what it trusts and holds already."""

    root: bytes | None
    stored: RoleSet | None = None
    store: BlobStore | None = None

    @classmethod
    def of(cls, state: Path | None, root: Path | None) -> "Site":
        """Read a node's state folder, or a root by itself, or nothing.

        Raises:
            NotFoundError: there is no such file, or the node was never given a root.
        """
        if root is not None and not root.is_file():
            raise NotFoundError(f"there is no root at {root}")
        given = None
        if root is not None:
            with translated(f"reading {root}"):
                given = root.read_bytes()
            metadata.root_version(given)
        if state is None:
            return cls(given)
        trust = TrustStore(state / "tuf")
        with translated(f"reading {state}"):
            return cls(given or trust.root(), trust.roles(), BlobStore(state / "store"))

    def has(self, digest: Digest) -> bool | None:
        """Whether the node holds a blob; None when no node was named."""
        return None if self.store is None else self.store.has(digest)


def show(folder: Path, site: Site, clock: datetime.datetime) -> dict[str, Any]:
    """Return everything there is to say about a bundle, as plain JSON data.

    Args:
        folder: The bundle.
        site: By whose trust and for whom.
        clock: The machine's clock; believed only as `TRUST.md` lets a node believe it.

    Raises:
        NotFoundError, IncompleteError, MalformedError: it is no bundle, or none that can be read.
    """
    contents = Contents(folder)
    root, chain = _roots(contents, site)
    items, trouble = _items(contents)
    revoked = _revoked(contents)
    rows = [_item(item, contents, site, revoked) for item in items[:_MOST_ROWS]]
    return {
        "name": contents.name,
        "version": contents.version,
        "folder": plain(folder, 4096),
        "trouble": trouble,
        "against": made_against(contents.hint),
        "signatures": {
            "checked": site.root is not None,
            "verdict": _verdict(contents, site, root, clock),
            "roots": chain,
            "roles": [_role(role) for role in seen_roles(root, _files(contents, root))],
        },
        "items": rows,
        "not_shown": max(0, len(items) - _MOST_ROWS),
        "revoked": [{"digest": one, "why": why} for one, why in revoked.items()],
        "bytes": _bytes(items, contents, site),
    }


def _items(contents: Contents) -> tuple[list[Item], str | None]:
    try:
        return contents.items(), None
    except ApplianceError as error:
        return [], plain(error.what)


def _roots(contents: Contents, site: Site) -> tuple[bytes | None, dict[str, Any]]:
    """Follow the bundle's roots from the trusted one, as an import would; keep nothing."""
    if site.root is None:
        return None, {"trusted": None, "newest": None, "trouble": NOT_CHECKED}
    newest, version = site.root, metadata.root_version(site.root)
    chain: dict[str, Any] = {"trusted": version, "newest": version, "trouble": None}
    try:
        for version, data in metadata.advance_root(site.root, contents.reader.root):
            newest, chain["newest"] = data, version
    except ApplianceError as error:
        chain["trouble"] = plain(error.what)
    return newest, chain


def _files(contents: Contents, root: bytes | None) -> dict[str, bytes]:
    return ({} if root is None else {"root": root}) | contents.roles


def _verdict(
    contents: Contents, site: Site, root: bytes | None, clock: datetime.datetime
) -> dict[str, Any] | None:
    """Return what steps 3 to 5 of an import say; None when there is nothing to check by."""
    if root is None:
        return None
    now = floor.now(floor.of(metadata.signed_times(root, [], site.stored)), clock)
    seen = {"at": rfc3339(now.at), "clock_believed": now.proven}
    try:
        verified = metadata.refresh(root, site.stored, contents.reader.metadata, now.at)
    except ApplianceError as error:
        return {"ok": False, "code": error.code, "why": plain(error.what), **seen}
    return {"ok": True, "new": verified.is_new, "older": verified.was_older, **seen}


def _role(role: SeenRole) -> dict[str, Any]:
    found = asdict(role)
    for name in ("role", "issued", "expires", "trouble"):
        found[name] = None if found[name] is None else plain(found[name])
    for name in ("signed", "unsigned"):
        found[name] = [
            {field: None if text is None else plain(text) for field, text in key.items()}
            for key in found[name][:100]
        ]
    return found


def _revoked(contents: Contents) -> dict[str, str]:
    """Return the digests that the bundle's own list denies, and why."""
    try:
        document = contents.document(_REVOKED_PATH) or {}
    except ApplianceError as error:
        return {"not readable": plain(error.what)}
    entries = document.get("digests")
    rows = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    return {plain(one.get("digest")): plain(one.get("why", "")) for one in rows[:_MOST_ROWS]}


def _item(item: Item, contents: Contents, site: Site, revoked: Mapping[str, str]) -> dict[str, Any]:
    blobs = [_blob(blob, contents, site, revoked) for blob in item.all_blobs]
    here = [blob["here"] for blob in blobs]
    return {
        "path": plain(item.path),
        "role": plain(item.role),
        "licence": None if item.licence is None else plain(item.licence),
        "trouble": None if item.trouble is None else plain(item.trouble),
        "bytes": sum(blob["bytes"] for blob in blobs),
        "revoked": any(blob["revoked"] for blob in blobs),
        "new": None if site.store is None else not all(here),
        "blobs": blobs,
    }


def _blob(blob: Blob, contents: Contents, site: Site, revoked: Mapping[str, str]) -> dict[str, Any]:
    carried, how, bases = _carried(blob, contents)
    return {
        "digest": blob.digest,
        "name": plain(blob.name),
        "bytes": blob.size,
        "carried": carried,
        "how": how,
        "bases": [{"digest": base, "here": site.has(base)} for base in bases],
        "revoked": blob.digest in revoked,
        "here": site.has(blob.digest),
    }


def _carried(blob: Blob, contents: Contents) -> tuple[int, str, list[Digest]]:
    """Return how many bytes of a blob the bundle carries, in which form, and its bases."""
    size = contents.size(blob.digest)
    if size is not None:
        return size, "whole" if size == blob.size else "another length", []
    try:
        recipe = contents.recipe(blob)
    except ApplianceError as error:
        return 0, plain(error.what), []
    if recipe is None:
        return 0, "not carried", []
    return recipe.new_bytes, "delta", [base.digest for base in recipe.bases]


def _bytes(items: list[Item], contents: Contents, site: Site) -> dict[str, int | None]:
    blobs = {blob.digest: blob for item in items for blob in item.all_blobs}.values()
    missing = [blob.size for blob in blobs if not site.has(blob.digest)]
    return {
        "all": sum(blob.size for blob in blobs),
        "carried": sum(_carried(blob, contents)[0] for blob in blobs),
        "new": None if site.store is None else sum(missing),
    }
