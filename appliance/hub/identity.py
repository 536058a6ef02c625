"""The hub's online keys: a director's that chooses, and another that only acknowledges."""

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.core import wire
from appliance.errors import NotFoundError, StateUnusableError, UsageError
from appliance.kit.files import make_folder, write_durably
from appliance.trust.keys import SigningKey


@dataclass(frozen=True, slots=True)
class HubIdentity:
    """Who this hub is."""

    org: str
    director_epoch: int
    director: SigningKey
    sync: SigningKey
    token: str

    def public(self) -> dict[str, Any]:
        """Return what the offline keys sign: ``appliance keys name-director`` takes it."""
        keys = {"director": self.director.public, "sync": self.sync.public}
        return {"org": self.org, "epoch": self.director_epoch, **keys}


def create(state: Path, org: str, director_epoch: int = 1) -> HubIdentity:
    """Make the hub's keys and its API token.

    Args:
        state: The hub's folder.
        org: The organisation.
        director_epoch: What the offline keys call this director; above 1 when it replaces one.

    Raises:
        StateUnusableError: there are some already.
    """
    folder = state / "identity"
    if (folder / "hub.json").exists():
        raise StateUnusableError(
            f"{state} is a hub already", hint="keys are never overwritten; name another folder"
        )
    make_folder(state, mode=0o711)
    make_folder(folder, mode=0o700)
    director = SigningKey.create(folder / "director.pem")
    sync = SigningKey.create(folder / "sync.pem")
    token = secrets.token_urlsafe(32)
    write_durably(folder / "token", token.encode(), mode=0o600)
    write_durably(folder / "hub.json", wire.dumps({"org": org, "epoch": director_epoch}))
    return HubIdentity(org, director_epoch, director, sync, token)


def raise_epoch(state: Path, epoch: int) -> HubIdentity:
    """Begin a higher director epoch with the same keys: the hub directs again after another did.

    Raises:
        NotFoundError: there is no hub.
        UsageError: the epoch is not higher.
    """
    found = load(state)
    if epoch <= found.director_epoch:
        raise UsageError(f"this hub is at director epoch {found.director_epoch} already")
    write_durably(state / "identity" / "hub.json", wire.dumps({"org": found.org, "epoch": epoch}))
    return replace(found, director_epoch=epoch)


def load(state: Path) -> HubIdentity:
    """Return the identity that ``create`` made.

    Raises:
        NotFoundError: there is none.
    """
    folder = state / "identity"
    try:
        found = wire.loads((folder / "hub.json").read_bytes(), what="hub.json")
        token = (folder / "token").read_text()
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no hub in {state}", hint="appliance hub init --org NAME"
        ) from error
    director = SigningKey.open(folder / "director.pem")
    sync = SigningKey.open(folder / "sync.pem")
    return HubIdentity(str(found["org"]), int(found["epoch"]), director, sync, token)
