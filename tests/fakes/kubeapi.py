"""An API server in memory: versions, server-side apply, watches, conflicts, owners.

It takes objects of any kind and checks no schema. ``tests/contract/test_kubeapi.py`` holds it
against a real server.
"""

import builtins
import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kube.client import Json, KubeApi, Watch
from appliance.kube.errors import ConflictError, ExistsError, GoneError
from tests.fakes import fieldsets

_WITH_STATUS = (
    "modeldeployments", "models", "sites", "deployments", "pods", "nodes", "poddisruptionbudgets",
)  # fmt: skip
_SERVERS = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


class Where:
    """A path, taken apart."""

    def __init__(self, path: str) -> None:
        parts = path.strip("/").split("/")
        start = 2 if parts[0] == "api" else 3
        self.namespace, rest = "", parts[start:]
        if rest[0] == "namespaces" and len(rest) > 2:
            self.namespace, rest = rest[1], rest[2:]
        self.kind = "/".join([*parts[:start], rest[0]])
        self.plural = rest[0]
        self.name = rest[1] if len(rest) > 1 else ""
        self.sub = rest[2] if len(rest) > 2 else ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name


class FakeKubeApi(KubeApi):
    """A server, and a client of it. ``client`` gives another client of the same server."""

    def __init__(self, manager: str = "edge-appliance") -> None:
        self.manager = manager
        self.calls = 0
        self.away = False
        """While set, nobody answers, and watches break."""
        self.before: Callable[[str, str], object] = lambda *_: None
        """Told method and path before each call; what it raises is the answer."""
        self.answers: dict[str, Json] = {}
        """What is at paths that are no objects, such as ``/version``."""
        self.version = 1
        self.changed = threading.Condition(threading.RLock())
        self.log: list[tuple[int, tuple[str, str, str], Json | None, Json | None]] = []
        self.forgotten = 0
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._owners: dict[tuple[str, str, str], fieldsets.Owners] = {}

    def compact(self) -> None:
        """Forget what came to pass so far: watches from before it are told so."""
        with self.changed:
            self.version += 1
            self.forgotten, self.log = self.version, []
            self.changed.notify_all()

    def break_watches(self, *, away: bool = False) -> None:
        """Cut every connection, and stay away if asked to."""
        with self.changed:
            self.away = True
            self.changed.notify_all()
        time.sleep(0.05)
        self.away = away

    # --- the interface ---------------------------------------------------------------------------

    def get(self, path: str) -> Json:
        with self._begin("GET", path):
            if path in self.answers:
                return copy.deepcopy(self.answers[path])
            if path.count("/") < 4 and not path.startswith("/api/"):
                raise NotFoundError(f"the server could not find {path}")
            return copy.deepcopy(self._held(Where(path)))

    def pages(
        self, path: str, *, labels: str = "", fields: str = "", page: int = 500
    ) -> Iterator[tuple[builtins.list[Json], str]]:
        with self._begin("GET", path):
            found = (o for k, o in self._objects.items() if _is_in(Where(path), k))
            chosen = [copy.deepcopy(o) for o in found if _matches(o, labels, fields)]
            version = str(self.version)
        for start in range(0, max(1, len(chosen)), page):
            if start:
                self.calls += "/leases" not in path
            yield chosen[start : start + page], version

    def watch(
        self, path: str, since: str, *, labels: str = "", fields: str = "", timeout_s: float = 300
    ) -> "FakeWatch":
        with self._begin("WATCH", path):
            self.calls -= "/leases" not in path
            return FakeWatch(self, Where(path), int(since), (labels, fields), timeout_s)

    def apply(self, path: str, body: Json, *, manager: str = "", force: bool = False) -> Json:
        with self._begin("PATCH", path):
            where, before = Where(path), self._objects.get(Where(path).key)
            if before is None and where.sub:
                raise NotFoundError(f"{where.plural} {where.name!r} not found")
            after = copy.deepcopy(before) if before else _new(where, body)
            owners = copy.deepcopy(self._owners.get(where.key, {}))
            mine = _part(where, body)
            who = f"{manager or self.manager}|Apply|{where.sub}"
            conflicts = fieldsets.apply(after, mine, owners, who, force=force)
            if conflicts:
                raise ConflictError(
                    f"Apply failed with {len(conflicts)} conflicts", fields=conflicts
                )
            self._owners[where.key] = owners
            return self._store(where, before, after)

    def create(self, path: str, body: Json, *, manager: str = "") -> Json:  # noqa: ARG002
        with self._begin("POST", path):
            metadata = body["metadata"]
            where = Where(f"{path}/{metadata['name']}")
            if where.key in self._objects:
                raise ExistsError(f"{where.plural} {where.name!r} already exists")
            after = _new(where, body)
            content = copy.deepcopy(_part(where, body))
            after.update({k: v for k, v in content.items() if k != "metadata"})
            after["metadata"].update(content.get("metadata", {}))
            self._own(where, {}, after)
            return self._store(where, None, after)

    def replace(self, path: str, body: Json) -> Json:
        with self._begin("PUT", path):
            where = Where(path)
            if where.key not in self._objects and body["metadata"].get("uid"):
                raise ConflictError(f"{where.name!r}: Precondition failed: UID")
            before = self._held(where)
            named = body["metadata"].get("resourceVersion")
            if named not in (None, before["metadata"]["resourceVersion"]):
                raise ConflictError(f"{where.name!r}: the object has been modified")
            return self._change(where, before, copy.deepcopy(body))

    def merge(self, path: str, body: Json) -> Json:
        with self._begin("PATCH", path):
            where, before = Where(path), self._held(Where(path))
            named = (body.get("metadata") or {}).get("resourceVersion")
            if named not in (None, before["metadata"]["resourceVersion"]):
                raise ConflictError(f"{where.name!r}: the object has been modified")
            return self._change(where, before, _merged(copy.deepcopy(before), body))

    def delete(self, path: str, *, uid: str = "") -> bool:
        with self._begin("DELETE", path):
            where = Where(path)
            found = self._objects.get(where.key)
            if found is None or (uid and found["metadata"]["uid"] != uid):
                return False
            if found["metadata"].get("finalizers"):
                after = copy.deepcopy(found)
                after["metadata"].setdefault("deletionTimestamp", _now())
                self._store(where, found, after)
            else:
                self._remove(where)
            return True

    def close(self) -> None: ...

    # --- the store -------------------------------------------------------------------------------

    def _begin(self, method: str, path: str) -> threading.Condition:
        if self.away:
            raise PeerUnreachableError(f"the API server does not answer ({path})")
        self.before(method, path)
        self.calls += "/leases" not in path
        return self.changed

    def _held(self, where: Where) -> Json:
        if where.key not in self._objects:
            raise NotFoundError(f"{where.plural} {where.name!r} not found")
        return self._objects[where.key]

    def _change(self, where: Where, before: Json, body: Json) -> Json:
        after = copy.deepcopy(before)
        for key in {*before, *body} - {"metadata", "apiVersion", "kind"}:
            if _is_written(where, key):
                after.pop(key, None)
                after.update({key: body[key]} if key in body else {})
        if not where.sub:
            kept = {k: v for k, v in before["metadata"].items() if k in _SERVERS}
            asked = {k: v for k, v in body["metadata"].items() if k not in _SERVERS}
            after["metadata"] = {**asked, **kept}
        self._own(where, before, after)
        return self._store(where, before, after)

    def _own(self, where: Where, before: Json, after: Json) -> None:
        owners = self._owners.setdefault(where.key, {})
        who = f"{self.manager}|Update|{where.sub}"
        fieldsets.updated(_content(before), _content(after), owners, who)

    def _store(self, where: Where, before: Json | None, after: Json) -> Json:
        owners = self._owners.get(where.key, {})
        split = (who.split("|") for who in sorted(owners))
        after["metadata"]["managedFields"] = [
            {"manager": who, "operation": what, **({"subresource": sub} if sub else {})}
            for who, what, sub in split
        ]
        if before == after:
            return copy.deepcopy(after)
        if before is not None and before.get("spec") != after.get("spec"):
            after["metadata"]["generation"] += 1
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        self._objects[where.key] = after
        self._tell(where.key, before, after)
        if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
            self._remove(where)
        return copy.deepcopy(after)

    def _remove(self, where: Where) -> None:
        gone = self._objects.pop(where.key)
        self._owners.pop(where.key, None)
        self.version += 1
        last = copy.deepcopy(gone)
        last["metadata"]["resourceVersion"] = str(self.version)
        self._tell(where.key, last, None)
        uid = gone["metadata"]["uid"]
        for key, found in list(self._objects.items()):
            owners = found["metadata"].get("ownerReferences") or ()
            if owners and all(owner["uid"] == uid for owner in owners):
                child = Where("/x/x/x/x")
                child.kind, child.namespace, child.name = key
                self._remove(child)

    def _tell(self, key: tuple[str, str, str], before: Json | None, after: Json | None) -> None:
        self.log.append((self.version, key, copy.deepcopy(before), copy.deepcopy(after)))
        self.changed.notify_all()


class FakeWatch(Watch):
    def __init__(
        self, api: FakeKubeApi, where: Where, since: int, chosen: tuple[str, str], timeout_s: float
    ) -> None:
        self._api = api
        self._where = where
        self._since = since
        self._chosen = chosen
        self._until = time.monotonic() + timeout_s
        self._ended = False

    def __iter__(self) -> Iterator[Json]:
        while True:
            with self._api.changed:
                while not (news := self._news()):
                    left = self._until - time.monotonic()
                    if self._ended:
                        return
                    if self._api.away:
                        raise PeerUnreachableError("the connection broke")
                    if left <= 0:
                        news = [self._bookmark()]
                        break
                    self._api.changed.wait(left)
            yield from news
            if news[-1]["type"] == "BOOKMARK":
                return

    def _news(self) -> list[Json]:
        if self._since < self._api.forgotten:
            raise GoneError("too old resource version")
        news = []
        for version, key, before, after in self._api.log:
            if version > self._since and _is_in(self._where, key):
                news += self._event(before, after)
        self._since = max(self._since, self._api.version)
        return news

    def _event(self, before: Json | None, after: Json | None) -> list[Json]:
        had = before is not None and _matches(before, *self._chosen)
        has = after is not None and _matches(after, *self._chosen)
        if not had and not has:
            return []
        kind = "MODIFIED" if had and has else "ADDED" if has else "DELETED"
        return [{"type": kind, "object": copy.deepcopy(after or before)}]

    def _bookmark(self) -> Json:
        return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self._since)}}}

    def close(self) -> None:
        with self._api.changed:
            self._ended = True
            self._api.changed.notify_all()


def _new(where: Where, body: Json) -> Json:
    metadata: Json = {
        "name": where.name,
        "uid": str(uuid.uuid4()),
        "creationTimestamp": _now(),
        "generation": 1,
    }
    if where.namespace:
        metadata["namespace"] = where.namespace
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata}


def _is_written(where: Where, key: str) -> bool:
    """Whether a write at this path reaches a part of the object."""
    if where.sub:
        return key == where.sub
    return key != "status" or where.plural not in _WITH_STATUS


def _part(where: Where, body: Json) -> Json:
    """Return what of a body counts: no names, and status only where status is written."""
    mine = {k: v for k, v in _content(body).items() if k == "metadata" or _is_written(where, k)}
    if where.sub:
        mine.pop("metadata", None)
    return mine


def _content(found: Json) -> Json:
    fixed = (*_SERVERS, "name", "namespace")
    metadata = {k: v for k, v in found.get("metadata", {}).items() if k not in fixed and v}
    rest = {k: v for k, v in found.items() if k not in ("apiVersion", "kind", "metadata")}
    return {**rest, **({"metadata": metadata} if metadata else {})}


def _merged(whole: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    whole = whole if isinstance(whole, dict) else {}
    for key, value in patch.items():
        if value is None:
            whole.pop(key, None)
        else:
            whole[key] = _merged(whole.get(key), value)
    return whole


def _is_in(where: Where, key: tuple[str, str, str]) -> bool:
    return key[0] == where.kind and where.namespace in ("", key[1])


def _matches(found: Json, labels: str, fields: str) -> bool:
    metadata = found["metadata"]
    has = metadata.get("labels") or {}
    for wanted in filter(None, labels.split(",")):
        key, equals, value = wanted.partition("=")
        if key not in has or (equals and has[key] != value):
            return False
    named = (wanted.partition("=") for wanted in filter(None, fields.split(",")))
    return all(metadata.get(key.removeprefix("metadata.")) == value for key, _, value in named)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
