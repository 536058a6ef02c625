"""Who owns which field: server-side apply, as far as simple objects need it.

A path is a tuple of steps: a field's name, or ``_Item`` for an item of a list that is a map.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "variants": (("version", "name"),),
    "nodes": (("name",),),
    "conditions": (("type",),),
    "containers": (("name",),),
    "initContainers": (("name",),),
    "volumes": (("name",),),
    "env": (("name",),),
    "volumeMounts": (("mountPath",),),
    "ownerReferences": (("uid",),),
    "ports": (("containerPort",), ("port",)),
}
"""Lists that are maps, and what their items are known by; all others are replaced as a whole."""


@dataclass(frozen=True)
class Item:
    keys: tuple[tuple[str, Any], ...]

    def is_of(self, item: Mapping[str, Any]) -> bool:
        return all(item.get(key) == value for key, value in self.keys)

    def __str__(self) -> str:
        return "[" + ",".join(f'{k}="{v}"' for k, v in self.keys) + "]"


Step = str | Item
Path = tuple[Step, ...]


def text(path: Path) -> str:
    return "".join(str(step) if isinstance(step, Item) else f".{step}" for step in path)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each path that an applied value claims, and what it puts there."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif (items := _as_map(path, value)) is not None:
        for item, inner in items.items():
            yield (*path, item), dict(item.keys)
            yield from leaves(inner, (*path, item))
    else:
        yield path, value


def _as_map(path: Path, value: Any) -> dict[Item, dict[str, Any]] | None:
    if not (path and isinstance(path[-1], str) and isinstance(value, list) and value):
        return None
    for keys in KEYS.get(path[-1], ()):
        if all(isinstance(item, dict) and all(k in item for k in keys) for item in value):
            return {Item(tuple((k, item[k]) for k in keys)): item for item in value}
    return None


_NOTHING = object()


def find(value: Any, path: Path) -> Any:
    """Return what is at a path, or a mark that nothing is."""
    for step in path:
        if isinstance(step, Item):
            items = value if isinstance(value, list) else []
            value = next((i for i in items if step.is_of(i)), _NOTHING)
        else:
            value = value.get(step, _NOTHING) if isinstance(value, dict) else _NOTHING
    return value


def put(value: Any, path: Path, leaf: Any) -> None:
    """Put a leaf where a path leads; ways that do not exist are made."""
    for step, following in zip(path, [*path[1:], None], strict=True):
        if isinstance(step, Item):
            found = next((i for i in value if step.is_of(i)), None)
            if found is None:
                found = dict(step.keys)
                value.append(found)
            value = found
        elif following is None:
            value[step] = leaf
        else:
            wanted: type = list if isinstance(following, Item) else dict
            if not isinstance(value.get(step), wanted):
                value[step] = wanted()
            value = value[step]


def drop(value: Any, path: Path) -> None:
    """Take away what is at a path, and the ways to it that are empty then."""
    *way, last = path
    holder = find(value, tuple(way))
    if isinstance(last, Item) and isinstance(holder, list):
        holder[:] = [item for item in holder if not last.is_of(item)]
    elif isinstance(holder, dict):
        holder.pop(last, None)
    if way and holder in ({}, []):
        drop(value, tuple(way))


Owners = dict[str, set[Path]]


def apply(
    live: dict[str, Any], applied: dict[str, Any], owners: Owners, manager: str, *, force: bool
) -> list[str]:
    """Apply to ``live`` and ``owners``; return the fields of a conflict, which changes nothing."""
    wanted = dict(leaves(applied)) if applied else {}
    conflicts = [
        path
        for path, leaf in wanted.items()
        if not isinstance(path[-1], Item)
        and leaf not in ({}, [])
        and find(live, path) not in (leaf, _NOTHING)
        and any(path in fields for who, fields in owners.items() if who != manager)
    ]
    if conflicts and not force:
        return [text(path) for path in conflicts]
    for who, fields in owners.items():
        if who != manager:
            fields.difference_update(conflicts)
    for path, leaf in wanted.items():
        merges = isinstance(path[-1], Item) or leaf in ({}, [])  # emptiness takes nothing away
        if not merges or find(live, path) is _NOTHING:
            put(live, path, leaf)
    before, owners[manager] = owners.get(manager, set()), set(wanted)
    for path in sorted(before - wanted.keys(), key=len):
        others = (p for who, fields in owners.items() if who != manager for p in fields)
        if not any(other[: len(path)] == path for other in others):
            drop(live, path)
    if not wanted:
        del owners[manager]
    return []


def updated(before: dict[str, Any], after: dict[str, Any], owners: Owners, manager: str) -> None:
    """Give what an update changed to who made it."""
    old, new = dict(leaves(before)), dict(leaves(after))
    changed = {path for path, leaf in new.items() if old.get(path, _NOTHING) != leaf}
    changed = {path for path in changed if new[path] not in ({}, [])}
    for fields in owners.values():
        fields.difference_update(changed | (old.keys() - new.keys()))
    owners.setdefault(manager, set()).update(changed)
    for who in [who for who, fields in owners.items() if not fields]:
        del owners[who]
