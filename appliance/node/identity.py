"""Who this node is: an opaque name, and a signing key that does not expire."""

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.core import wire
from appliance.core.ids import NodeId, node_id
from appliance.errors import NotFoundError, StateUnusableError
from appliance.kit.files import make_folder, require_space, write_durably
from appliance.kit.reserve import RESERVE_BYTES, Reserve
from appliance.runtime import record
from appliance.trust.envelope import Addressee
from appliance.trust.keys import Signer, SigningKey
from appliance.trust.metadata import root_version
from appliance.trust.store import TrustStore

_ROOM_BYTES = RESERVE_BYTES + (32 << 20)
"""The reserve, and room for a ledger; a disk that has not even that is refused untouched."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """A node's name and key; the key may lie in a file or in a chip."""

    node: NodeId
    key: Signer

    def at(self, org: str, db_epoch: str) -> Addressee:
        """Return all names that an envelope for or from this node carries.

        Args:
            org: Whose node it is.
            db_epoch: The ledger's.
        """
        return Addressee(org, self.node, self.key.public, db_epoch)

    def public(self) -> dict[str, str]:
        """Return what the hub admits a node by."""
        return {"node": self.node, "key": self.key.public}


def create(state: Path, node: NodeId, root: bytes) -> NodeIdentity:
    """Make a state folder: reserve, key, and the root that every bundle will be judged by.

    Running it again with the same name and root is harmless.

    Raises:
        NoSpaceError: not even the reserve fits.
        StateUnusableError: the folder cannot be used, or belongs to another node or root.
        MalformedError, SignatureError: the root is not one.
    """
    root_version(root)
    record.paths(state.absolute(), node)  # says so at once when its sockets could have no names
    folder = state / "identity"
    if not folder.exists():
        require_space(_nearest(state), _ROOM_BYTES, what="a new node")
    make_folder(state, mode=0o711)
    Reserve(state / "reserve").hold()
    TrustStore(state / "tuf").init(root)
    if (folder / "node.json").exists():
        found = load(state)
        if found.node != node:
            raise StateUnusableError(f"{state} belongs to the node {found.node} already")
        return found
    make_folder(folder, mode=0o700)
    pem = folder / "node.pem"
    key = SigningKey.open(pem) if pem.exists() else SigningKey.create(pem)
    public = wire.dumps({"node": node, "key": key.public})
    write_durably(folder / "node.json", public, mode=0o644)
    return NodeIdentity(node, key)


def _nearest(path: Path) -> Path:
    """Return the folder that is there already and will hold ``path``."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def load(state: Path) -> NodeIdentity:
    """Return the identity that ``create`` made.

    Raises:
        NotFoundError: there is none.
        StateUnusableError: it is not ours to read.
    """
    try:
        found = wire.loads((state / "identity" / "node.json").read_bytes(), what="node.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"there is no node in {state}",
            hint=f"appliance node init --state-dir {state} --name NAME --root FILE",
        ) from error
    except PermissionError as error:
        raise StateUnusableError(
            f"uid {os.geteuid()} may not read {error.filename}, and no controller answers",
            hint="run it as root, or as whom the node belongs to; or start the controller",
        ) from error
    return NodeIdentity(node_id(str(found["node"])), SigningKey.open(state / "identity/node.pem"))
