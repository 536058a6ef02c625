"""Everything in the ledger that makes a blob in the store belong to somebody.

A blob that no root needs is collected sooner or later: whoever adds a table whose rows stand for
things in the store adds its rows here.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.cache import artefacts, catalog
from appliance.core.artefact import HeldArtefact
from appliance.core.ids import Digest
from appliance.core.model import Variant


@dataclass(frozen=True, slots=True)
class Root:
    """One manifest that is held, and what people call it.

    ``variant`` is None for what is no model. ``stays`` says why care must never evict it by itself,
    empty when it may.
    """

    manifest: Digest
    reference: str
    variant: Variant | None = None
    stays: str = ""
    blobs: Mapping[Digest, int] = field(default_factory=dict)

    @property
    def own_blobs(self) -> dict[Digest, int]:
        """The blobs that are known without its manifest, which may be lost: a size of 0 is none."""
        own = {self.manifest: 0}
        if self.variant is not None:
            own |= {file.digest: file.size for file in self.variant.all_files}
        return own | dict(self.blobs)


def all_roots(db: sqlite3.Connection) -> list[Root]:
    """Return every root, whether its blobs are whole or not."""
    models = [Root(v.manifest, v.reference, v) for v in catalog.everything(db)]
    others = [
        Root(
            held.manifest,
            held.path,
            stays="one of the newest two that bundles brought",
            blobs=held.blobs,
        )
        for held in artefacts.everything(db)
    ]
    return models + others


def shown(db: sqlite3.Connection) -> tuple[list[Variant], list[HeldArtefact]]:
    """Return what ``store/index.json`` lists: models that are whole, and everything else."""
    return catalog.variants(db), artefacts.everything(db)
