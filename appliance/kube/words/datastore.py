"""Which datastore an API server stands on: the one that was seen before, or another.

A site's etcd or SQLite can be lost, or come back from an old snapshot. Then what is missing is to
be made again. Otherwise what is missing was deleted by somebody, and stays so. The difference is in
three uids (of ``kube-system``, of our namespace, of our definitions) and in the version, which only
grows. A doubt is no answer: whoever reads here tries again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.core.mirror import Datastore, Key, Mirrored
from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kube.marks import MANAGED_BY, MANAGER
from appliance.kube.resources import DEFINITIONS, MODEL_DEPLOYMENTS, NAMESPACES, SITES, Resource
from appliance.kube.words.owned import Json, Seen, seen_of

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

KINDS = (MODEL_DEPLOYMENTS, SITES)
_BY_KIND = {kind.kind: kind for kind in KINDS}
_LEAP = 500_000_000
"""``etcdutl snapshot restore --bump-revision`` adds a billion; no site writes so much between."""
_SYSTEM = "kube-system"


@dataclass(frozen=True, slots=True)
class Survey:
    """What stands on a server at one moment, and which datastore that is."""

    datastore: Datastore
    seen: Mapping[Key, Seen]


def path_of(namespace: str, key: Key) -> str:
    """Return where an object of ours is on the server."""
    kind, name = key
    return _BY_KIND[kind].path(namespace, name)


def judged(known: Datastore, now: Datastore) -> Datastore:
    """Return ``now`` with its epoch: that of ``known``, or the next when it is another. Pure."""
    same = (known.cluster, known.namespace, known.definitions) == (
        now.cluster,
        now.namespace,
        now.definitions,
    ) and known.version <= now.version < known.version + _LEAP
    return replace(now, epoch=known.epoch if same else known.epoch + 1)


def survey(
    api: "KubeApi", namespace: str, known: Datastore, definitions: Callable[[], Iterable[Json]]
) -> Survey:
    """Read all that stands there, and then which datastore it is; make what a fresh one lacks.

    The order matters: what was listed before the uids were read cannot be of a later datastore.

    Raises:
        PeerUnreachableError: nobody answers, or the server is between two states; try again.
        ForbiddenError: the server does not let us look.
    """
    items: dict[Key, Seen] = {}
    version = 0
    for kind in KINDS:
        try:
            found, at = api.list(kind.path(namespace))
        except NotFoundError as error:
            _define(api, definitions)
            raise PeerUnreachableError(f"the server does not serve {kind.plural} yet") from error
        version = max(version, int(at) if at.isdecimal() else 0)
        items |= {seen.key: seen for seen in (seen_of({"kind": kind.kind, **o}) for o in found)}
    cluster = _uid(api, NAMESPACES, _SYSTEM)
    ours = _namespace(api, namespace)
    kinds = ",".join(_uid(api, DEFINITIONS, f"{kind.plural}.{kind.group}") for kind in KINDS)
    return Survey(judged(known, Datastore(cluster, ours, kinds, version)), items)


def confirm(api: "KubeApi", namespace: str, found: Survey, rows: Mapping[Key, Mirrored]) -> None:
    """Ask for each object that seems deleted; a list may come short when a server is in trouble.

    Raises:
        PeerUnreachableError: one of them is there after all.
    """
    for key, row in rows.items():
        if key in found.seen or not row.uid or row.epoch != found.datastore.epoch:
            continue
        try:
            api.get(path_of(namespace, key))
        except NotFoundError:
            continue
        raise PeerUnreachableError(f"a list left out {key[0]} {key[1]}, which is there")


def _define(api: "KubeApi", definitions: Callable[[], Iterable[Json]]) -> None:
    for body in definitions():
        path = DEFINITIONS.path(name=body["metadata"]["name"])
        try:
            found = api.get(path)
        except NotFoundError:
            api.create(DEFINITIONS.path(), body)
        else:
            _must_stay(found)


def _uid(api: "KubeApi", kind: Resource, name: str) -> str:
    try:
        found = api.get(kind.path(name=name))
    except NotFoundError as error:
        raise PeerUnreachableError(f"{kind.kind} {name} is not there (yet)") from error
    return _must_stay(found)


def _namespace(api: "KubeApi", name: str) -> str:
    path = NAMESPACES.path(name=name)
    try:
        return _must_stay(api.get(path))
    except NotFoundError:
        labels = {
            MANAGED_BY: MANAGER,
            "pod-security.kubernetes.io/enforce": "privileged",
        }
        body = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        }
        return _must_stay(api.apply(path, body))


def _must_stay(found: Json) -> str:
    """Return an object's uid; while it is being deleted, what is in it goes with it."""
    meta = found["metadata"]
    if "deletionTimestamp" in meta:
        raise PeerUnreachableError(f"{meta['name']} is being deleted; waiting for its end")
    return str(meta["uid"])
