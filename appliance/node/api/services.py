"""What the local API needs of the node around it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from appliance.bundle.take.accept import Importer
from appliance.bundle.take.answers import AnswerTaker
from appliance.bundle.take.model_add import LocalModels
from appliance.bundle.take.receipts import ReceiptBook
from appliance.cache.care import CacheCare
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.reserve import Reserve
from appliance.ledger.db import Ledger
from appliance.node.carry import Carrier
from appliance.node.enrolment import Certificates
from appliance.node.fetching import Fetching
from appliance.node.gpus import Gpus
from appliance.node.software import Software


@dataclass(frozen=True, slots=True)
class LocalServices:
    """The parts of one node that requests act on."""

    ledger: Ledger
    importer: Importer
    receipts: ReceiptBook
    answers: AnswerTaker
    certificates: Certificates
    care: CacheCare
    software: Software
    gpus: Gpus
    reserve: Reserve
    clock: Clock
    status: Callable[[], dict[str, Any]]
    log_lines: Callable[[str, int], dict[str, list[str]]]
    changed: Callable[[], Awaitable[None]]
    stop: Callable[..., None]
    fetching: Fetching
    carrier: Carrier
    work: set[asyncio.Task[Any]] = field(default_factory=set)
    """What goes on although whoever asked for it may have left."""

    @property
    def models(self) -> LocalModels:
        """What the site brings itself; it waits in the same queue as imports."""
        return LocalModels(self.importer.parts, self.importer.queue)

    def now(self) -> str:
        """Return the time for a record, UTC."""
        return rfc3339(self.clock.utc())
