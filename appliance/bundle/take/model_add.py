"""Bring your own: a model that no bundle brought, approved by the site itself.

This is the only way by which anything unsigned comes in, and it comes in as the publisher
``local``: it never takes a name that the organisation holds.
"""

import datetime
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

from appliance.bundle.format.oci import MANIFEST_TYPE
from appliance.bundle.media.queue import Entry, ImportQueue, Step
from appliance.bundle.take.accept import ImportParts
from appliance.bundle.take.bring import Bringer, Brought, Wish, guessed_variant
from appliance.bundle.take.intake import Progress
from appliance.cache import catalog, index, roots
from appliance.core.documents import MODEL_NAME, VERSION
from appliance.core.ids import LOCAL, Digest
from appliance.core.model import Variant
from appliance.errors import NotFoundError, RefusedError, ScopeError, UsageError
from appliance.kit.clock import rfc3339
from appliance.ledger import budgets, meta
from appliance.ledger.streams import Fact, Stream
from appliance.trust import floor, local
from appliance.trust.metadata import SignedTarget

_FORMS = {"name": MODEL_NAME, "version": VERSION, "variant": r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}"}


class LocalModels:
    """The models that one site brings itself. Blocking: give it a thread of its own."""

    def __init__(self, parts: ImportParts, queue: ImportQueue) -> None:
        self._parts = parts
        self._queue = queue

    def add(
        self, source: Path, wish: Wish, by: str, progress: Progress = lambda _: None
    ) -> Variant:
        """Copy a model into the store, and approve it with the site's own key.

        Args:
            source: A file of weights, a folder with all files of a model, or an OCI layout.
            wish: What it is to be called.
            by: Who asked, for the audit stream.
            progress: Told at each step and each chunk, on this thread.

        Raises:
            ScopeError: the organisation holds that name.
            UsageError: the node holds it already, or it is not a name.
            MalformedError: it is not GGUF or safetensors, such as a pickle; or not a ModelPack.
            NotFoundError, NoSpaceError, StateUnusableError: as their names say.
        """
        entry = Entry(f"model {wish.name[:64]}", by)

        def told(step: Step) -> None:
            entry.step = step
            progress(step)

        self._parts.ledger.read(budgets.require_audit)
        with self._queue.turn(entry):
            try:
                return self._add(source, wish, by, told)
            except RefusedError as error:
                body = {"by": by, "model": wish.name[:64], "code": error.code, "why": error.what}
                fact = Fact(Stream.AUDIT, "model-add-refused", self._at(), body)
                self._parts.ledger.note(fact).result()
                raise

    def remove(
        self, name: str, version: str | None, variant: str | None, by: str
    ) -> tuple[Variant, ...]:
        """Take back models that the site brought; their bytes go when the store is cleaned.

        Raises:
            NotFoundError: the site brought none of that name, version and variant.
        """
        with self._queue.turn(Entry(f"model {name[:64]}", by)):
            known = self._parts.ledger.read(catalog.variants)
            gone = tuple(
                row
                for row in known
                if (row.publisher, row.model) == (LOCAL, name)
                and version in (None, row.version)
                and variant in (None, row.name)
            )
            if not gone:
                raise NotFoundError(
                    f"this site brought no such model {name[:64]!r}",
                    hint="appliance model list; what bundles brought is not removed by hand",
                )
            self._remove(gone, by)
            return gone

    def _add(self, source: Path, wish: Wish, by: str, progress: Progress) -> Variant:
        wish = replace(wish, variant=wish.variant or guessed_variant(source))
        _check_form(wish)
        self._check_free(wish)
        blobs = self._parts.store.blobs
        brought = Bringer(blobs, self._parts.housekeeping, progress).bring(source, wish)
        try:
            self._check_unknown(brought.variant)
        except UsageError:
            blobs.discard(brought.digests)
            raise
        progress(Step("writing the catalogue"))
        self._parts.housekeeping.recheck(brought.digests)
        new = [digest for digest in brought.digests if not blobs.has(digest)]
        blobs.admit(new)
        blobs.discard(brought.digests)  # what was in the store already
        made = [data for data in (brought.config, brought.manifest) if data is not None]
        new += [blobs.add(data) for data in made]
        self._approve(brought, new, by)
        return brought.variant

    def _check_free(self, wish: Wish) -> None:
        """Refuse a name that the organisation holds, and what is here already."""
        rows = self._parts.ledger.read(catalog.variants)
        taken = set(local.organisation_models(self._parts.trust.listed().targets))
        taken |= {row.model for row in rows if row.publisher != LOCAL}
        if wish.name in taken:
            raise ScopeError(
                f"{wish.name} is the name of a model of the organisation",
                hint="take another name: what a site brings never stands in for what was signed",
            )
        if any(row.path == wish.path for row in rows):
            raise UsageError(
                f"{wish.name} {wish.version} {wish.variant} is here already",
                hint=f"take another --version or --variant, or: appliance model rm {wish.name}",
            )

    def _check_unknown(self, variant: Variant) -> None:
        """A manifest has one name: by a second one, a row would replace the first."""
        for row in self._parts.ledger.read(catalog.variants):
            if row.manifest == variant.manifest:
                raise UsageError(f"that model is here already, as {row.reference}")

    def _approve(self, brought: Brought, new: list[Digest], by: str) -> None:
        """Sign first: what no list names would be refused, and a list without a row is harmless."""
        variant = brought.variant
        target = SignedTarget(variant.path, variant.manifest, len(brought.manifest), MANIFEST_TYPE)
        local.approve(self._parts.state, target, self._now())
        path = self._parts.store.blobs.path  # what has no row, a restart has hashed before its use
        at, sizes = self._at(), {digest: path(digest).stat().st_size for digest in new}
        body = {
            "by": by,
            "path": variant.path,
            "manifest": variant.manifest,
            "licence": variant.licence,
            "bytes": variant.weights_bytes,
        }

        def effect(db: sqlite3.Connection) -> None:
            catalog.add(db, variant, at)
            index.admitted(db, sizes)

        self._parts.ledger.record(effect, Fact(Stream.AUDIT, "model-add", at, body)).result()
        self._parts.store.publish_index(*self._parts.ledger.read(roots.shown))

    def _remove(self, gone: tuple[Variant, ...], by: str) -> None:
        at = self._at()
        facts = [
            Fact(Stream.AUDIT, "model-remove", at,
                 {"by": by, "path": row.path, "manifest": row.manifest})
            for row in gone
        ]  # fmt: skip

        def effect(db: sqlite3.Connection) -> None:
            for row in gone:
                catalog.remove(db, row.manifest)

        self._parts.ledger.record(effect, *facts).result()
        local.withdraw(self._parts.state, [row.path for row in gone], self._now())
        self._parts.store.publish_index(*self._parts.ledger.read(roots.shown))

    def _now(self) -> datetime.datetime:
        return floor.now(self._parts.ledger.read(meta.floor), self._parts.clock.utc()).at

    def _at(self) -> str:
        return rfc3339(self._parts.clock.utc())


def _check_form(wish: Wish) -> None:
    for what, form in _FORMS.items():
        text = getattr(wish, what)
        if not re.fullmatch(form, text):
            raise UsageError(f"{text[:64]!r} cannot be a model's {what}")
    if len(wish.licence) > 200:
        raise UsageError("the licence is not a short text")
