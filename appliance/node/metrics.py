"""What the node tells of itself without being asked: measurements, states, and how full its log is.

Measurements are facts of the stream ``metrics``: one a second for the host, for each GPU and for
each model that generates. They gather for some seconds and are then written in one transaction, for
a durable write each second would wear out a small disk.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from appliance.core.machine import GpuLoad
from appliance.errors import NoSpaceError
from appliance.hardware import host, nvidia
from appliance.hardware.host import HostLoad
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.loop import Again
from appliance.ledger import budgets
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node.board import Board
from appliance.settings import SyncSettings

log = logging.getLogger(__name__)
_BUDGETS_S = 10.0
_STATE_S = 1.0
_SHARE = 0.1
"""Measuring may take this share of the time: a driver that is slow is asked less often."""

Measured = tuple[HostLoad, tuple[GpuLoad, ...]]


def measure() -> Measured:
    """Return what the machine does now; blocks for as long as a driver takes to say."""
    return host.read_load(), nvidia.loads()


class Sampler:
    """Measures, and writes down what it has gathered."""

    def __init__(
        self, ledger: Ledger, clock: Clock, settings: SyncSettings,
        tokens: Callable[[], Mapping[str, float]] = dict,
        measure: Callable[[], Measured] = measure,
    ) -> None:  # fmt: skip
        """``tokens`` says how many tokens a second each model generates."""
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._tokens = tokens
        self._measure = measure
        self._gathered: list[Fact] = []
        self._wrote = clock.monotonic()

    async def look(self) -> Again | None:
        """Measure once; write when enough has gathered. A full disk loses measurements only."""
        if not self._settings.sample_s:
            return None
        began = self._clock.monotonic()
        measured = await asyncio.to_thread(self._measure)
        took = self._clock.monotonic() - began
        self._gathered += facts(rfc3339(self._clock.utc()), measured, self._tokens())
        if self._clock.monotonic() - self._wrote >= self._settings.metrics_s:
            await self.write()
        return Again(max(self._settings.sample_s - took, took / _SHARE, 0.01))

    async def write(self) -> None:
        """Write down what was gathered; call it at the end too."""
        gathered, self._gathered = self._gathered, []
        self._wrote = self._clock.monotonic()
        if not gathered:
            return
        try:
            await asyncio.wrap_future(self._ledger.note(*gathered))
        except NoSpaceError as error:
            log.warning("%d measurements are lost: %s", len(gathered), error)


def facts(at: str, measured: Measured, tokens: Mapping[str, float]) -> list[Fact]:
    """Return one measurement as facts; what is not known is left out."""
    machine, gpus = measured
    bodies = [
        ("host", {"memory_available_bytes": machine.memory_available_bytes, "load": machine.load}),
        *(("gpu", _of(gpu)) for gpu in gpus),
        *(("model", {"id": m, "tokens_per_s": round(t, 3)}) for m, t in tokens.items()),
    ]
    return [
        Fact(Stream.METRICS, kind, at, {k: v for k, v in body.items() if v is not None})
        for kind, body in bodies
    ]


def _of(gpu: GpuLoad) -> dict[str, Any]:
    return {
        "id": gpu.uuid,
        "memory_used_bytes": gpu.memory_used_bytes,
        "busy_percent": gpu.busy_percent,
        "celsius": gpu.celsius,
        "watts": gpu.watts,
    }


class StateNotes:
    """Notes each new state of the deployments in the stream ``reported``, so that none is lost.

    The report itself is only the newest; a hub that was away learns here what it missed.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, board: Board, state: Callable[[], dict[str, Any]]
    ) -> None:
        """``state`` returns what is to be noted."""
        self._ledger = ledger
        self._clock = clock
        self._board = board
        self._state = state
        self._noted = board.version

    async def look(self) -> Again:
        """Note the state if it is a new one."""
        version = self._board.version
        if version != self._noted:
            fact = Fact(Stream.REPORTED, "state", rfc3339(self._clock.utc()), self._state())
            await asyncio.wrap_future(self._ledger.note(fact))
            self._noted = version
        return Again(_STATE_S)


def limits(settings: SyncSettings) -> dict[Stream, int]:
    """Return the budget of each stream, in bytes."""
    return {stream: getattr(settings, f"{stream}_bytes") for stream in Stream}


class BudgetLoop:
    """Keeps every stream within its budget, and says so when one cannot be kept."""

    def __init__(self, ledger: Ledger, settings: SyncSettings) -> None:
        """Set the budgets; blocks while what waits is counted.

        Raises:
            NoSpaceError, StateUnusableError: as ``Ledger.record``.
        """
        self.full: tuple[str, ...] = ()
        """The streams of which nothing may be dropped and that reached their budget."""
        self._ledger = ledger
        ledger.record(partial(budgets.begin, limits=limits(settings))).result()

    async def look(self) -> Again:
        """Make room where it lacks."""
        await asyncio.to_thread(enforce, self._ledger)
        full = tuple(str(stream) for stream in self._ledger.read(budgets.overfull))
        if full != self.full and full:
            log.error(
                "waiting for the hub, and at their budgets: %s; nothing of them is dropped%s",
                ", ".join(full),
                ", but no import and no command may start" if Stream.AUDIT in full else "",
            )
        self.full = full
        return Again(_BUDGETS_S)


def enforce(ledger: Ledger) -> dict[Stream, budgets.Kept]:
    """Bring every stream below its budget, in bounded transactions; return what gave way.

    Blocking.

    Raises:
        NoSpaceError: there is not even room to make room.
    """
    found = {}
    for stream in Stream:
        if not ledger.read(partial(budgets.is_due, stream=stream)):
            continue
        coarsened = dropped = 0
        while kept := ledger.record(partial(budgets.step, stream=stream)).result():
            coarsened += kept.coarsened
            dropped += kept.dropped
        if coarsened or dropped:
            found[stream] = budgets.Kept(coarsened, dropped)
            log.info("%s was over its budget: %s", stream, found[stream])
    return found
