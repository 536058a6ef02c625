"""What a node says of itself: to its own staff as status, to the hub as a signed report."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from appliance.cache.index import Wanted
from appliance.core.machine import MachineFacts
from appliance.core.state import DesiredState
from appliance.kit.clock import Clock, rfc3339
from appliance.ledger import chain, commands, meta, overrides, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node.board import Board
from appliance.node.desired import fleet
from appliance.trust import floor
from appliance.trust.envelope import Addressee, Slot, seal
from appliance.trust.keys import Signer

_MOST_WANTED = 50
"""A report must stay small; what is left out is asked for when some of this has come."""
_LIFETIME = floor.SPAN
"""A report is known as old by its number; a node whose clock is wrong must be heard too."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Puts together what is known at this moment."""

    ledger: Ledger
    board: Board
    machine: Callable[[], MachineFacts]
    clock: Clock
    wanted: Callable[[], list[Wanted]] = list
    reserve: Callable[[], bool] = lambda: True
    """Whether the disk's reserve is held; without it the disk is full, and new effects refused."""

    def body(self) -> dict[str, Any]:
        """Return what is known of the node as plain JSON data."""
        return {
            **self.state(),
            "audit": self.ledger.read(chain.head).to_wire(),
            "machine": asdict(self.machine()),
            "reserve": self.reserve(),
            "streams": self.streams(),
            "wanted": [w.to_wire() for w in self.wanted()[:_MOST_WANTED]],
        }

    def state(self) -> dict[str, Any]:
        """Return what is asked of the node, and how far it is, as plain JSON data."""
        desired = self.board.world.desired
        return {
            "applied": self._applied(desired.fleet_generation),
            "deployments": [s.to_wire() for s in self.board.world.statuses],
            "removed": list(desired.removed),
            "drift": drift(desired),
            "overrides": [o.to_wire() for o in self.ledger.read(overrides.rows).values()],
        }

    def _applied(self, generation: int | None) -> dict[str, Any]:
        """Return the fleet's word in force; its hash tells a hub that was put back from another."""
        word = self.ledger.read(fleet)
        if word.generation != generation:
            return {"generation": generation}
        return {
            "generation": generation, "hash": word.hash, "directorEpoch": word.director_epoch,
        }  # fmt: skip

    def streams(self) -> dict[str, dict[str, Any]]:
        """Return, for each stream, how many records were ever written and acknowledged.

        ``hash`` is that of the last batch acknowledged, which the next one links to.
        """
        found = self.ledger.read(lambda db: {s: streams.position(db, s) for s in Stream})
        return {
            str(s): {"written": p.written, "acknowledged": p.acked_upto, "hash": p.acked_hash}
            for s, p in found.items()
        }

    async def signed(self, me: Addressee, key: Signer) -> bytes:
        """Return the report as an envelope for ``up/reported``.

        It carries a number that grows, so that an old one that a broker repeats is known as old.
        The head is as of that number: of two reports made at one time, for link and stick, the
        later must not name an earlier head, which would look as if the log had been cut.
        """
        number, nonce, head = await asyncio.wrap_future(
            self.ledger.record(
                lambda db: (meta.next_report(db), commands.draw_nonce(db), chain.head(db))
            )
        )
        counter, epoch = self.ledger.read(
            lambda db: (commands.last(db), commands.director_epoch(db))
        )
        clock = self.clock.utc()
        body = {**self.body(), "report": number, "at": rfc3339(clock), "audit": head.to_wire()}
        body["commands"] = {"counter": counter, "directorEpoch": epoch, "nonce": nonce}
        issued = floor.now(self.ledger.read(meta.floor), clock).at
        return seal(Slot.REPORTED, me, body, key, issued=issued, lifetime=_LIFETIME)


def drift(desired: DesiredState) -> dict[str, str]:
    """Return in what local words depart from the fleet's, by deployment."""
    found = {d.document.name: d.drift for d in desired.deployments if d.drift}
    found.update(dict.fromkeys(desired.removed, "removed here; the fleet asks for it"))
    return found
