"""The node's words as custom resources: look, plan, remember, write. It may run at any time, twice.

Every node of a site runs this for its own words. ``kube/words/projection.py`` decides; what
is remembered goes to the ledger before the cluster hears of it, and again after. The cluster may be
away for as long as it likes: then this is tried again, and nothing else waits for it.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from appliance.core.documents import ModelDeployment, Site
from appliance.core.mirror import Datastore, Key, Mirrored
from appliance.core.state import Origin
from appliance.errors import ApplianceError, NotFoundError, PeerUnreachableError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.loop import Again
from appliance.kube.errors import ConflictError
from appliance.kube.words import datastore
from appliance.kube.words.datastore import path_of
from appliance.kube.words.owned import Json, Seen, seen_of
from appliance.kube.words.plan import (
    Drop,
    Finding,
    Heard,
    Keep,
    Plan,
    Put,
    Remake,
    Remove,
    Step,
    TakenAway,
    TakeOver,
    View,
    Word,
)
from appliance.kube.words.projection import plan
from appliance.ledger import mirror
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

log = logging.getLogger(__name__)
_Any = TypeVar("_Any")

_PROJECTED = (ModelDeployment.kind_name, Site.kind_name)
_SOON_S = 1.0
_LATER_S = 60.0
_KUBECTL = "kubectl"

Look = Callable[[], Mapping[Key, Seen] | None]
"""Returns the objects as a watch shows them, or None while it does not know them all."""


@dataclass(frozen=True, slots=True)
class Here:
    """Who projects, into which namespace, by which policy."""

    node: str
    namespace: str
    policy: TakeOver = TakeOver.IF_NO_DIFF


class Projection:
    """Brings one node's words into the cluster, and the cluster's objects into its ledger."""

    def __init__(
        self, api: "KubeApi", ledger: Ledger, here: Here, clock: Clock,
        *, definitions: Callable[[], Iterable[Json]], look: Look = lambda: None,
    ) -> None:  # fmt: skip
        """``definitions`` are the CRDs that a fresh datastore lacks; without ``look`` it lists."""
        self.findings: tuple[Finding, ...] = ()
        """What the last pass found."""
        self.changed: Callable[[], object] = lambda: None
        """Called on the event loop after a pass that changed what is remembered."""
        self._api = api
        self._ledger = ledger
        self._here = here
        self._clock = clock
        self._definitions = definitions
        self._look = look
        self._surveyed = False

    async def reconcile(self) -> Again | None:
        """Make one pass.

        Raises:
            PeerUnreachableError: the cluster does not answer, or is between two states.
            ForbiddenError: it does not let this node look.
        """
        again, changed = await asyncio.to_thread(self._pass)
        if changed:
            self.changed()
        return again

    def survey_soon(self) -> None:
        """Have the next pass read everything itself, whatever the watch says."""
        self._surveyed = False

    def _pass(self) -> tuple[Again | None, bool]:
        found = self._found()
        view = self._ledger.read(partial(_view, here=self._here, found=found))
        made = plan(view)
        self._record(found.datastore, made.steps)
        results, failed = self._carry_out(view, made)
        self.findings = (*made.findings, *(_finding(key, e) for key, e in failed.items()))
        changed = bool(made.steps)
        if any(isinstance(e, ConflictError | NotFoundError) for e in failed.values()):
            self.survey_soon()  # what this was planned on holds no longer
            return Again(_SOON_S), changed
        if failed:
            return Again(_LATER_S), changed
        return (Again(_SOON_S) if results else None), changed

    # --- looking ---------------------------------------------------------------------------------

    def _found(self) -> datastore.Survey:
        """Return what stands there; what seems to be missing is asked for again."""
        known = self._ledger.read(mirror.datastore) or Datastore("", "", "", 0)
        seen = self._look() if self._surveyed else None
        if seen is not None:
            rows = self._ledger.read(mirror.rows)
            if not any(row.uid and key not in seen for key, row in rows.items()):
                newest = max((_version(s) for s in seen.values()), default=0)
                version = max(known.version, newest)
                return datastore.Survey(replace(known, version=version), seen)
        namespace = self._here.namespace
        found = datastore.survey(self._api, namespace, known, self._definitions)
        datastore.confirm(self._api, namespace, found, self._ledger.read(mirror.rows))
        if known.cluster and found.datastore.epoch != known.epoch:
            log.warning("a datastore that was not seen before: epoch %d", found.datastore.epoch)
        self._surveyed = True
        return found

    # --- writing ---------------------------------------------------------------------------------

    def _record(self, now: Datastore, steps: Iterable[Step]) -> None:
        """Remember, in one transaction, what is seen and what is about to be done."""
        steps = list(steps)
        at = rfc3339(self._clock.utc())

        def effect(db: sqlite3.Connection) -> None:
            if mirror.datastore(db) != now:
                mirror.set_datastore(db, now)
            for step in steps:
                _note(db, step, at)

        taken = (s for s in steps if isinstance(s, TakenAway))
        facts = (
            Fact(Stream.AUDIT, "delete", at, {"by": _KUBECTL, "kind": s.key[0], "name": s.key[1]})
            for s in taken
        )
        if steps or self._ledger.read(mirror.datastore) != now:
            self._ledger.record(effect, *facts).result()

    def _carry_out(self, view: View, made: Plan) -> tuple[int, dict[Key, ApplianceError]]:
        """Write what the plan says; return how much that was, and what failed, by object."""
        results: list[Step] = []
        failed: dict[Key, ApplianceError] = {}
        written = 0
        try:
            for step in made.steps:
                if (key := _key(step)) in failed:
                    continue
                try:
                    outcome = list(self._do(view, step))
                except PeerUnreachableError:
                    raise
                except ApplianceError as error:
                    log.info("%s %s: %s", *key, error)
                    failed[key] = error
                    continue
                written += isinstance(step, Put | Remake | Remove)
                results += outcome
        finally:
            if results:
                self._ledger.record(partial(_note_result, steps=results)).result()
        return written, failed

    def _do(self, view: View, step: Step) -> Iterator[Step]:
        """Carry out one step; yield what is to be remembered of it."""
        if isinstance(step, Put):
            log.info("put %s %s: %s", *step.row.key, step.reason)
            yield Keep(_remembered(step.row, self._put(step)))
        elif isinstance(step, Remake):
            log.info("remake %s %s: %s", *step.row.key, step.reason)
            path = path_of(self._here.namespace, (step.row.kind, ""))
            made = self._api.create(path, step.body, manager=step.manager)
            yield Keep(_remembered(replace(step.row, epoch=view.epoch), made))
        elif isinstance(step, Remove):
            log.info("delete %s %s: %s", *step.key, step.reason)
            self._api.delete(path_of(self._here.namespace, step.key), uid=step.uid)
            yield Drop(step.key)
        elif isinstance(step, Heard):
            yield step

    def _put(self, step: Put) -> Json:
        path = path_of(self._here.namespace, step.row.key)
        if step.before is None:
            return self._api.apply(path, step.body, manager=step.manager)
        try:
            found = self._api.get(path)
        except NotFoundError as error:
            raise ConflictError(f"{step.row.name} is gone") from error
        if seen_of(found) != step.before:
            raise ConflictError(f"{step.row.name} has changed since it was looked at")
        version = found["metadata"]["resourceVersion"]
        if step.remove:
            patch = {"metadata": {"resourceVersion": version}, "spec": step.remove}
            version = self._api.merge(path, patch)["metadata"]["resourceVersion"]
        meta = {**step.body["metadata"], "resourceVersion": version}
        body = {**step.body, "metadata": meta}
        return self._api.apply(path, body, manager=step.manager, force=True)


def _view(db: sqlite3.Connection, here: Here, found: datastore.Survey) -> View:
    word = desired.fleet(db)
    fleet = {
        (d.kind, d.name): Word(Origin.FLEET, d.to_wire(), word.generation)
        for d in word.documents
        if d.kind in _PROJECTED
    }
    local = {(k, n): d for k in _PROJECTED for n, d in desired.local(db, k).items()}
    words = {key: said for key, said in fleet.items() if key not in local}
    words |= {k: Word(Origin.LOCAL, d.to_wire()) for k, d in local.items() if d is not None}
    removed = frozenset(key for key, d in local.items() if d is None and key in fleet)
    alone = {(k, n) for k in _PROJECTED for n in desired.unreadable(db, k)}
    return View(
        here.node, found.datastore.epoch, here.policy, words, fleet, removed,
        _without(found.seen, alone),
        _without(mirror.rows(db), alone),
        _without(mirror.asked(db), alone),
    )  # fmt: skip


def _without(found: Mapping[Key, _Any], alone: Collection[Key]) -> dict[Key, _Any]:
    """Leave out what nobody can read here: an object must not go because its word is not known."""
    return {key: value for key, value in found.items() if key not in alone}


def _note(db: sqlite3.Connection, step: Step, at: str) -> None:
    """Remember one step; of one that is about to be carried out, that it is."""
    if isinstance(step, Keep | Put):
        mirror.keep(db, step.row)
    elif isinstance(step, Drop):
        mirror.drop(db, [step.key])
    elif isinstance(step, Remove) and step.row is not None:
        mirror.keep(db, step.row)
    elif isinstance(step, TakenAway) and step.fleet_asks:
        desired.set_local(db, *step.key, None, _KUBECTL, at)
    elif isinstance(step, TakenAway):
        desired.forget_local(db, *step.key)


def _note_result(db: sqlite3.Connection, steps: Iterable[Step]) -> None:
    for step in steps:
        if isinstance(step, Heard):
            mirror.heard(db, step.wish)
        else:
            _note(db, step, "")


def _remembered(row: Mirrored, made: Json) -> Mirrored:
    seen = seen_of(made)
    return replace(
        row, uid=seen.uid, spec=seen.spec, labels=seen.labels, annotations=seen.annotations
    )


def _key(step: Step) -> Key:
    if isinstance(step, Put | Remake | Keep):
        return step.row.key
    return step.wish.key if isinstance(step, Heard) else step.key


def _version(seen: Seen) -> int:
    return int(seen.version) if seen.version.isdecimal() else 0


def _finding(key: Key, error: ApplianceError) -> Finding:
    return Finding(*key, "NotWritten", error.what)
