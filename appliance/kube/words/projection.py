"""What is wanted, as custom resources: which to write, which to leave alone, and why. Pure.

Site first. What somebody made or edited with kubectl stays in force and is reported; the fleet gets
it by the policy for taking over, or when local staff release it. Only what this node made is ever
deleted, but for what local staff name. What a lost datastore held is made again as it was, edits
included. The tables that this follows are in ``docs/how-to/fleet-and-local.md``.

``plan`` may be repeated at any time. What it decides about one object depends on nothing but that
object's own past, so that it can stop anywhere.
"""

from collections.abc import Iterator
from dataclasses import replace

from appliance.core.documents import API_VERSION
from appliance.core.mirror import Key, Mirrored
from appliance.core.state import Origin
from appliance.kube.marks import MANAGER
from appliance.kube.words import owned
from appliance.kube.words.owned import Difference, Json, Seen
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


def plan(view: View) -> Plan:
    """Return what is to be done now; no steps mean that all is as it should be."""
    keys = sorted({*view.words, *view.seen, *view.rows, *view.asked})
    parts = [part for key in keys for part in _one(view, key)]
    gone = [
        Finding(*key, "RemovedHere", "removed here; the fleet asks for it")
        for key in sorted(view.removed)
    ]
    steps = tuple(p for p in parts if not isinstance(p, Finding))
    return Plan(steps, (*(p for p in parts if isinstance(p, Finding)), *gone))


# --- one object ----------------------------------------------------------------------------------


def _one(view: View, key: Key) -> Iterator[Step | Finding]:
    seen, row, wish = view.seen.get(key), view.rows.get(key), view.asked.get(key)
    if seen is None:
        yield from _absent(view, key, row)
    elif seen.going:
        return
    elif wish is not None and wish.verb == "delete" and wish.uid == seen.uid:
        yield Remove(key, seen.uid, "local staff asked to delete it", _unsure(row))
        yield Heard(wish)
        return
    elif is_mine(view, seen):
        yield from _mine(view, seen)
    else:
        yield from _theirs(view, seen)
    if wish is not None:
        yield Heard(wish)


def is_mine(view: View, seen: Seen) -> bool:
    """Return whether this node made the object, so that it may change and delete it.

    The mark alone does not say so: somebody may have deleted the object and made it again from
    what ``kubectl get -o yaml`` had printed. Only a ledger that knows nothing of an object which is
    wanted believes the mark.
    """
    if seen.owner is Origin.CLUSTER or seen.annotations[owned.FROM] != view.node:
        return False
    row = view.rows.get(seen.key)
    if row is None:
        return seen.key in view.words
    return row.projected and (row.uid in ("", seen.uid) or row.epoch != view.epoch)


def _absent(view: View, key: Key, row: Mirrored | None) -> Iterator[Step | Finding]:
    word, wish = view.words.get(key), view.asked.get(key)
    if row is not None:
        lost = row.epoch != view.epoch
        if lost and wish is None and (word is not None or not row.projected):
            yield _remade(row)
            return
        yield Drop(key)
        deleted = not lost and row.projected and row.uid
        if deleted and word is not None and wish is None:
            yield TakenAway(key, fleet_asks=key in view.fleet)
            return
    if word is not None:
        yield _new(view, key, word)


def _remade(row: Mirrored) -> Remake:
    """An object as it was, with the edits of people here; a later plan brings it up to date."""
    notes, manager = row.annotations, MANAGER
    if not row.projected:
        manager = owned.REBUILDER
        notes = {**notes, owned.REBUILT: "from the ledger, after the datastore was lost"}
    body = _body(row.key, row.spec, row.labels, notes)
    return Remake(row, body, manager, "the datastore that held it is lost")


def _mine(view: View, seen: Seen) -> Iterator[Step | Finding]:
    word = view.words.get(seen.key)
    if word is None:
        taken = seen.key in view.removed
        reason = "local staff took it away" if taken else "nobody asks for it any longer"
        yield Remove(seen.key, seen.uid, reason, replace(_row(view, seen, True), uid=""))
        return
    if _is_due(view, seen, word):
        yield _put(view, seen, word, "as it is wanted")
    else:
        yield from _kept(view, _row(view, seen, True))
    yield from _departs(view, seen, word)


def _theirs(view: View, seen: Seen) -> Iterator[Step | Finding]:
    """What others made: somebody with kubectl, another node, nobody in particular."""
    word, asked = view.words.get(seen.key), view.asked.get(seen.key)
    other = seen.owner is not Origin.CLUSTER and seen.annotations[owned.FROM] != view.node
    if word is None or other:
        yield from _kept(view, _row(view, seen, False))
        yield from _stranger(view, seen, word)
        return
    found = owned.differences(
        owned.normal(seen.kind, seen.spec), owned.normal(seen.kind, word.spec)
    )
    forced = asked is not None and asked.verb == "force"
    policy = view.policy if word.owner is Origin.FLEET else TakeOver.IF_NO_DIFF
    if forced or not seen.touched or _allows(policy, found):
        yield _put(view, seen, word, "taken over", whole=True)
        return
    yield from _kept(view, _row(view, seen, False))
    yield _refused(seen, word, policy, found)


def _refused(seen: Seen, word: Word, policy: TakeOver, found: tuple[Difference, ...]) -> Finding:
    why = owned.in_words(found) or "both say the same"
    if word.owner is Origin.LOCAL:
        cure = "appliance apply, once more, puts the applied document in its place"
    else:
        cure = f"appliance release {seen.name} gives it to the fleet"
    says = f"somebody here made it, and {_SAYS[word.owner]} asked for it otherwise or too ({why})"
    return Finding(
        *seen.key, "TakeOverRefused", f"{says}; by {policy} it stays as it is; {cure}", found
    )


def _allows(policy: TakeOver, found: tuple[Difference, ...]) -> bool:
    return policy is TakeOver.ALWAYS or (policy is TakeOver.IF_NO_DIFF and not found)


def _stranger(view: View, seen: Seen, word: Word | None) -> Iterator[Finding]:
    if seen.owner is Origin.CLUSTER:
        if seen.touched:
            yield Finding(*seen.key, "OnlyHere", "only here; the fleet does not ask for it")
        return
    maker = seen.annotations[owned.FROM]
    if maker == view.node:
        yield Finding(
            *seen.key,
            "Orphan",
            "it carries this node's mark, and this node does not know it;"
            f" appliance delete {seen.name} deletes it",
        )
    elif word is not None:
        yield Finding(
            *seen.key, "FromOtherNode", f"node {maker} projects it, and so it is left alone"
        )


def _departs(view: View, seen: Seen, word: Word) -> Iterator[Finding]:
    """In what an object of ours departs from the fleet's word, once this plan is carried out."""
    theirs = view.fleet.get(seen.key)
    if theirs is None:
        yield Finding(*seen.key, "OnlyHere", "only here; the fleet does not ask for it")
        return
    target, _ = _target(view, seen, word)
    if found := owned.drift(seen.kind, target, theirs.spec):
        reason = "LocalEdit" if word.owner is Origin.FLEET else "LocalOverride"
        yield Finding(*seen.key, reason, owned.in_words(found), found)


# --- what to write -------------------------------------------------------------------------------


def _is_due(view: View, seen: Seen, word: Word) -> bool:
    """Return whether an object of ours must be written.

    The generation is not among the reasons: it says which one changed the object last.
    """
    target, _ = _target(view, seen, word)
    return (
        owned.normal(seen.kind, seen.spec) != target
        or seen.labels[owned.OWNER] != word.owner
        or seen.annotations.get(owned.APPLIED) != owned.mark(*seen.key, word.document)
    )


def _target(view: View, seen: Seen, word: Word, *, whole: bool = False) -> tuple[Json, set[str]]:
    """Return what an object should say, normal, and the fields left as somebody here set them.

    Left are the fields that stand otherwise than this node applied them. Forced, none are, but for
    the replicas where somebody scales: taking those back would be a fight without end.
    """
    have, want = owned.normal(seen.kind, seen.spec), owned.normal(seen.kind, word.spec)
    base = (owned.applied(seen.annotations, seen.name) or {}).get("spec", have)
    kept = {
        d.field for d in owned.differences(have, base) if have.get(d.field) != want.get(d.field)
    }
    asked = view.asked.get(seen.key)
    by_policy = view.policy is TakeOver.ALWAYS and word.owner is Origin.FLEET
    if whole or by_policy or (asked is not None and asked.verb == "force"):
        scales = bool(want.get("scaling")) or (by_policy and seen.scaled)
        kept &= {"replicas"} if scales else set()
    target = {name: value for name, value in want.items() if name not in kept}
    return target | {name: have[name] for name in kept if name in have}, kept


def _put(view: View, seen: Seen, word: Word, reason: str, *, whole: bool = False) -> Put:
    target, kept = _target(view, seen, word, whole=whole)
    # A field that another manager sets is left out; where the server noted nobody, leaving out
    # what we applied before would unset it, so it is sent as it stands.
    spec = {name: value for name, value in word.spec.items() if name not in kept}
    spec |= {n: seen.spec[n] for n in kept if n in seen.spec and n not in seen.others}
    body = _marked(view, seen.key, word, spec)
    row = replace(
        _row(view, seen, True), owner=word.owner, spec={**spec, **target},
        labels={**seen.labels, **body["metadata"]["labels"]},
        annotations={**seen.annotations, **body["metadata"]["annotations"]},
    )  # fmt: skip
    remove = owned.to_remove(owned.normal(seen.kind, seen.spec), target)
    return Put(row, body, _manager(word), reason, seen, remove)


def _new(view: View, key: Key, word: Word) -> Put:
    body = _marked(view, key, word, word.spec)
    meta = body["metadata"]
    row = Mirrored(
        *key, word.owner, "", view.epoch, True, body["spec"], meta["labels"], meta["annotations"]
    )
    return Put(row, body, _manager(word), f"asked for by {_SAYS[word.owner]}")


def _marked(view: View, key: Key, word: Word, spec: Json) -> Json:
    meta = word.document.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), owned.OWNER: str(word.owner)}
    notes = {
        **(meta.get("annotations") or {}),
        owned.FROM: view.node,
        owned.APPLIED: owned.mark(*key, word.document),
    }
    if word.generation:
        notes[owned.GENERATION] = str(word.generation)
    return _body(key, spec, labels, notes)


def _body(key: Key, spec: Json, labels: dict[str, str], annotations: dict[str, str]) -> Json:
    kind, name = key
    meta = {"name": name, "labels": labels, "annotations": annotations}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": spec}


_SAYS = {Origin.FLEET: "the fleet", Origin.LOCAL: "local staff"}


def _manager(word: Word) -> str:
    return f"{MANAGER}-{word.owner}"


# --- what to remember ----------------------------------------------------------------------------


def _row(view: View, seen: Seen, projected: bool) -> Mirrored:  # noqa: FBT001 - read at each call
    owner = seen.owner
    if not projected and owner is not Origin.CLUSTER and seen.annotations[owned.FROM] == view.node:
        owner = Origin.CLUSTER  # a copy: the mark is not ours
    return Mirrored(
        *seen.key, owner, seen.uid, view.epoch, projected, seen.spec, seen.labels, seen.annotations
    )


def _kept(view: View, row: Mirrored) -> Iterator[Keep]:
    if view.rows.get(row.key) != row:
        yield Keep(row)


def _unsure(row: Mirrored | None) -> Mirrored | None:
    return None if row is None else replace(row, uid="")
