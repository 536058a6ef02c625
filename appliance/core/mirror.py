"""What the ledger remembers of custom resources, so that a lost datastore is no loss."""

from dataclasses import dataclass, field
from typing import Any

from appliance.core.state import Origin

Key = tuple[str, str]
"""An object's kind and name; those with a namespace are all in one."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One custom resource as it was last seen, or as it is about to be made.

    ``uid`` is empty from when this node decides to make or delete it until that was seen to have
    happened. ``epoch`` counts the datastores that this node has known: what is not there although
    it was seen in this epoch was deleted, what is of an earlier epoch was lost. ``projected``:
    this node made it from a word of the fleet or of local staff.
    """

    kind: str
    name: str
    owner: Origin
    uid: str = ""
    epoch: int = 0
    projected: bool = False
    spec: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class Datastore:
    """What tells one datastore of Kubernetes from another: uids, and the newest version seen.

    ``namespace`` and ``definitions`` are uids too: when either is made anew, what was in it is
    lost, whoever deleted it.
    """

    cluster: str
    namespace: str
    definitions: str
    version: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What local staff asked for and the cluster has not heard yet.

    ``force`` makes an object what it should be, over all edits; ``delete`` deletes the one object
    with that uid, whoever made it.
    """

    kind: str
    name: str
    verb: str
    uid: str = ""

    @property
    def key(self) -> Key:
        return self.kind, self.name
