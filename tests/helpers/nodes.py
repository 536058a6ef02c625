"""A node's controller over a fake driver, so that nothing has to run."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.cache import catalog
from appliance.core.ids import Digest
from appliance.core.model import Variant
from appliance.core.routes import RouteSnapshot
from appliance.core.state import DeploymentStatus
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node import desired
from appliance.node.board import Board
from appliance.node.controller import Controller, Surroundings
from appliance.node.rounds import Rounds
from appliance.trust.documents import Revocation, Revoked
from appliance.trust.listed import Listed
from tests.fakes.driver import FakeDriver
from tests.helpers.models import deployment, listing, machine
from tests.helpers.waiting import StillClock

if TYPE_CHECKING:
    import datetime


class ControlledNode:
    """A ledger, a driver that obeys the test, and the controller between them."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "node.db")
        self.routes_path = folder / "routes.json"
        self.clock = StillClock()
        self.driver = FakeDriver(by_itself=False)
        self.facts = machine()
        self.listed = Listed()
        self.demand: dict[str, datetime.datetime] = {}
        self.around = Surroundings(lambda: self.facts, lambda: self.listed, lambda: self.demand)
        self.restart()

    def restart(self) -> None:
        """Begin as a controller begins: it remembers nothing but the ledger."""
        self.board = Board(self.ledger, self.clock, self.routes_path)
        rounds = Rounds(self.driver, slots=2)
        self.controller = Controller(self.ledger, rounds, self.around, self.board, self.clock)

    def bring(self, found: Variant) -> None:
        """Have it in the catalogue, and on the signed list."""
        self.ledger.record(lambda db: catalog.add(db, found, "now")).result()
        self.listed = replace(self.listed, targets={**self.listed.targets, **listing(found)})

    def unlist(self, found: Variant) -> None:
        kept = {path: t for path, t in self.listed.targets.items() if path != found.path}
        self.listed = replace(self.listed, targets=kept)

    def revoke(self, digest: Digest, *, stop: bool = False) -> None:
        entry = {digest: Revocation(digest, "it leaks", stop)}
        self.listed = replace(self.listed, revoked=Revoked("acme", 1, entry))

    def apply(self, name: str = "notes", **spec: Any) -> None:
        document = deployment(name, **spec)
        self.ledger.record(lambda db: desired.apply_locally(db, document, "me", "now")).result()

    def status(self, name: str = "notes") -> DeploymentStatus:
        return next(s for s in self.board.world.statuses if s.name == name)

    def routes(self) -> RouteSnapshot:
        return RouteSnapshot.load(self.routes_path.read_bytes())

    def records(self, stream: Stream) -> list[dict[str, Any]]:
        self.ledger.note().result()  # what was noted before is committed by then
        found = self.ledger.read(lambda db: list(streams.waiting(db, stream, 1000)))
        return [r.record for r in found]
