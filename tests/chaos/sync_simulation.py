"""A day of a fleet with seeded faults: links, roads, sticks and processes fail, and all converges.

``python -m tests.chaos.sync_simulation --faults 10000`` loops both traces to 24 simulated hours.
"""

import argparse
import asyncio
import datetime
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.told import told
from tests.helpers.simulation import Sent, SimHub, SimNode, facts_of
from tests.helpers.spools import Journal, Request, read_traces, traces_folder
from witness.compare import compare

TICK_S = 45
_RESEND = 2
_ROTATE = 2
_MOST_ROUNDS = 2000
_BEGAN = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
_WEIGHTS = {
    "link cut": 4,
    "link cut for hours": 0.03,
    "batch lost": 12,
    "batch doubled": 12,
    "batches reordered": 12,
    "batch delayed": 10,
    "batch damaged": 5,
    "batch on another's topic": 4,
    "acknowledgement lost": 8,
    "acknowledgement repeated": 5,
    "acknowledgement of another": 4,
    "stick carried": 4,
    "gateway killed": 2,
    "clock jumped": 2,
    "node killed taking usage in": 3,
    "node killed sealing": 4,
    "node killed acknowledging": 3,
    "node killed making room": 2,
    "hub killed committing": 3,
    "hub killed before acknowledging": 3,
}


@dataclass(slots=True)
class Road:
    """What is between one node and the hub; a number is the tick at which something happens."""

    down_until: int = 0
    late: list[tuple[int, Sent]] = field(default_factory=list)
    sticks: list[tuple[int, list[Sent]]] = field(default_factory=list)
    acks: deque[bytes] = field(default_factory=lambda: deque(maxlen=4))
    deaf: bool = False


@dataclass(slots=True)
class Tally:
    """What was done to them."""

    struck: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)
    transactions: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    largest: int = 0


class Fleet:
    """Nodes, their roads, and the hub."""

    def __init__(self, scratch: Path, count: int, ticks: int, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - it is to repeat
        self.tally = Tally()
        self.hours = range(ticks // 6, ticks // 3)
        self.journal = Journal(scratch / "journal.jsonl")
        self.hub = SimHub(scratch / "hub")
        self._log = (scratch / "faults.jsonl").open("w")
        self.nodes = []
        for n in range(count):
            folder = scratch / f"node-{n}"
            folder.mkdir()
            self.nodes.append(SimNode(folder, f"node-{n}", self.hub, self.journal))
            self.hub.admit(self.nodes[-1])
        self.roads = {node.name: Road() for node in self.nodes}
        self._runner = asyncio.Runner()
        self._waiting: dict[str, deque[str]] = {node.name: deque() for node in self.nodes}

    def set_clocks(self, tick: int) -> None:
        now = _BEGAN + datetime.timedelta(seconds=tick * TICK_S)
        for clock in (self.hub.clock, *(node.clock for node in self.nodes)):
            clock.time = now

    def plan(self, node: SimNode, kind: str) -> None:
        """Have a fault strike a node as soon as there is something to strike."""
        self._waiting[node.name].append(kind)

    def planned(self) -> int:
        return sum(map(len, self._waiting.values()))

    def tick(self, tick: int, requests: Callable[[SimNode], Iterable[Request]] | None) -> None:
        """Let one tick pass; without requests nobody serves any more."""
        self.set_clocks(tick)
        arriving: list[Sent] = []
        for node in self.nodes:
            if requests is not None:
                self._serve(node, tick, requests(node))
            waiting = self._waiting[node.name]
            faults = [waiting.popleft() for _ in range(min(len(waiting), 3))]
            faults = [kind for kind in faults if not self._strike_node(node, tick, kind)]
            node.take_in()
            node.keep_within_budgets()
            arriving += self._travel(node, tick, faults)
        self.rng.shuffle(arriving)
        self._commit(tick, arriving)
        self.journal.flush()

    def _serve(self, node: SimNode, tick: int, requests: Iterable[Request]) -> None:
        now = node.clock.time
        if tick % _ROTATE == 0:
            node.spool.close()
        node.spool.serve(requests, now)
        node.write(list(facts_of(now, TICK_S, self.rng)))

    def _struck(self, node: SimNode, tick: int, kind: str, flight: dict[str, Any]) -> None:
        self.tally.struck[kind] += 1
        self.tally.busy[kind] += any(flight.values())
        if "transaction" in flight:
            self.tally.transactions[kind] += flight["transaction"]
        line = {"tick": tick, "node": node.name, "fault": kind, "in_flight": flight}
        self._log.write(json.dumps(line) + "\n")

    def _strike_node(self, node: SimNode, tick: int, kind: str) -> bool:
        """Do what befalls the node itself; return False for what happens on its road."""
        doing: dict[str, Callable[[], object]] = {
            "node killed taking usage in": node.take_in,
            "node killed making room": node.keep_within_budgets,
            "node killed sealing": lambda: node.due(tick, _RESEND),
            "node killed acknowledging": lambda: self._hear(node, self.hub.ack(node)),
        }
        if kind in doing:
            flight = node.in_flight()
            if kind == "node killed making room":
                node.squeeze()
            open_transaction = node.die(doing[kind], self.rng)
            self._struck(node, tick, kind, {**flight, "transaction": open_transaction})
        elif kind == "gateway killed":
            self._struck(node, tick, kind, {"requests": node.spool.open_requests})
            node.spool.close()
        elif kind == "clock jumped":
            node.clock.time = self.rng.choice(
                [_BEGAN.replace(year=1970), _BEGAN.replace(year=2038)]
            )
            self._struck(node, tick, kind, node.in_flight())
        else:
            return False
        return True

    def _travel(self, node: SimNode, tick: int, faults: list[str]) -> list[Sent]:
        """Return what of this node arrives at the hub in this tick."""
        road = self.roads[node.name]
        on_way = [Sent(node.name, stream, data) for stream, data in node.due(tick, _RESEND)]
        self.tally.batches += len(on_way)
        for kind in faults:
            flight = {"messages": len(on_way), **node.in_flight()}
            if not (on_way or (kind.startswith(("link", "stick", "ack")) and flight["batches"])):
                self._waiting[node.name].appendleft(kind)  # there is nothing to strike: later
                continue
            on_way = self._strike_road(node, tick, kind, on_way)
            self._struck(node, tick, kind, flight)
        if tick < road.down_until:
            on_way = []
        on_way += [sent for at, sent in road.late if at <= tick]
        road.late = [entry for entry in road.late if entry[0] > tick]
        for at, carried in road.sticks:
            if at <= tick:
                on_way += carried
        road.sticks = [entry for entry in road.sticks if entry[0] > tick]
        return on_way

    def _strike_road(self, node: SimNode, tick: int, kind: str, on_way: list[Sent]) -> list[Sent]:
        rng, road = self.rng, self.roads[node.name]
        if kind.startswith("link cut"):
            road.down_until = tick + rng.choice(self.hours if "hours" in kind else range(1, 20))
            return on_way[: rng.randrange(len(on_way) + 1)]
        if kind == "stick carried":
            carried = [Sent(node.name, stream, data) for stream, data in node.carried()]
            first, again = tick + rng.randrange(40), tick + rng.randrange(40)
            road.sticks += [(first, carried), (again, carried[::-1])]
            return on_way
        if kind.startswith(("acknowledgement", "hub")):
            return self._strike_answer(node, tick, kind, on_way)
        chosen = rng.randrange(len(on_way))
        one, others = on_way[chosen], on_way[:chosen] + on_way[chosen + 1 :]
        if kind == "batch doubled":
            return [*on_way, one, one]
        if kind == "batches reordered":
            return rng.sample(on_way, len(on_way))
        if kind == "batch delayed":
            road.late.append((tick + rng.randrange(1, 30), one))
        elif kind == "batch damaged":
            others.append(Sent(one.node, one.stream, _damaged(one.envelope, rng)))
        elif kind == "batch on another's topic":
            other = rng.choice([n for n in self.nodes if n is not node])
            others.append(Sent(other.name, one.stream, one.envelope))
        return others

    def _strike_answer(self, node: SimNode, tick: int, kind: str, on_way: list[Sent]) -> list[Sent]:
        road = self.roads[node.name]
        if kind == "acknowledgement lost":
            road.deaf = True
        elif kind == "acknowledgement repeated" and road.acks:
            self._hear(node, self.rng.choice(road.acks))
        elif kind == "acknowledgement of another":
            other = self.rng.choice([n for n in self.nodes if n is not node])
            self._hear(node, self.hub.ack(other))
        elif kind == "hub killed committing" and tick >= road.down_until:
            self.hub.die(on_way)
        elif kind == "hub killed before acknowledging" and tick >= road.down_until:
            self.hub.take(on_way)
            self.hub.restart()
            road.deaf = True
        return on_way

    def _commit(self, tick: int, arriving: list[Sent]) -> None:
        self.tally.refused.update(self.hub.take(arriving))
        for node in self.nodes:
            road = self.roads[node.name]
            if tick >= road.down_until and not road.deaf:
                ack = self.hub.ack(node)
                road.acks.append(ack)
                self._hear(node, ack)
            road.deaf = False

    def _hear(self, node: SimNode, ack: bytes) -> None:
        if code := self._runner.run(node.hear(ack)):
            self.tally.refused[f"ack {code}"] += 1

    def waits(self) -> int:
        """Return how many records and batches no hub has acknowledged."""
        counts = [sum(node.in_flight().values()) for node in self.nodes]
        self.tally.largest = max(self.tally.largest, *counts)
        return sum(counts)

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.hub.close()
        self.journal.close()
        self._log.close()
        self._runner.close()


def _damaged(envelope: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(envelope))
    return envelope[:at] + bytes([envelope[at] ^ 1 << rng.randrange(7)]) + envelope[at + 1 :]


class Traffic:
    """A trace of an hour, over and over, dealt out to the nodes."""

    def __init__(self, trace: list[Request], nodes: list[SimNode]) -> None:
        self._ticks: list[list[Request]] = [[] for _ in range(3600 // TICK_S)]
        for request in trace:
            self._ticks[int(request.at) // TICK_S].append(request)
        self._places = {node.name: n for n, node in enumerate(nodes)}

    def at(self, tick: int, node: SimNode) -> list[Request]:
        hour, place = divmod(tick, len(self._ticks))
        return self._ticks[place][
            (self._places[node.name] + hour) % len(self._places) :: len(self._places)
        ]


def run(scratch: Path, trace: list[Request], options: argparse.Namespace) -> dict[str, Any]:
    """Run the day, let it converge, compare; return what is to be told."""
    began = time.monotonic()
    ticks = int(options.hours * 3600) // TICK_S
    fleet = Fleet(scratch, options.nodes, ticks, options.seed)
    fleet.plan(fleet.nodes[0], "link cut for hours")
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    with ExitStack() as stack:
        stack.callback(fleet.close)
        traffic = Traffic(trace, fleet.nodes)
        strikes = Counter(fleet.rng.randrange(ticks) for _ in range(options.faults - 1))
        for tick in range(ticks):
            for kind in fleet.rng.choices(kinds, weights, k=strikes[tick]):
                fleet.plan(fleet.rng.choice(fleet.nodes), kind)
            fleet.tick(tick, partial(traffic.at, tick))
            if tick % 10 == 0:
                fleet.waits()
        for node in fleet.nodes:
            node.spool.close()
        rounds = _converge(fleet, ticks)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(scratch / "faults.jsonl", options.keep)
    nodes = {node.name: node.database for node in fleet.nodes}
    verdict = compare(fleet.hub.database, nodes, [scratch / "journal.jsonl"])
    tally = fleet.tally
    return {
        "ok": not verdict.counts and not fleet.planned(),
        "hours": options.hours,
        "nodes": options.nodes,
        "seed": options.seed,
        "faults": sum(tally.struck.values()),
        "struck": dict(tally.struck),
        "busy": dict(tally.busy),
        "with a transaction open": dict(tally.transactions),
        "not struck": fleet.planned(),
        "refused": dict(tally.refused),
        "gave way": _gave_way(fleet.nodes),
        "batches sent": tally.batches,
        "largest backlog": tally.largest,
        "rounds to converge": rounds,
        "wall_s": round(time.monotonic() - began, 1),
        "verdict": verdict.to_json(),
    }


def _gave_way(nodes: Iterable[SimNode]) -> dict[str, int]:
    """Return what budgets coarsened and dropped, as the nodes said when they did."""
    total = sum((node.gave_way for node in nodes), Counter[tuple[str, str]]())
    return {f"{stream} {what}": many for (stream, what), many in total.items()}


def _converge(fleet: Fleet, tick: int) -> int:
    """Let time pass until nothing waits; what was to strike and could not does so meanwhile."""
    for rounds in range(_MOST_ROUNDS):
        fleet.tick(tick + rounds, None)
        if not fleet.waits() and rounds > 40:
            return rounds
    return _MOST_ROUNDS


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where it works; default: in memory")
    parser.add_argument("--keep", type=Path, help="copy the log of all faults to here")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, print a table, and end with 0 when nothing was found."""
    options, traces = options_of(arguments), traces_folder()
    if traces is None:
        sys.stdout.write("skipped: there are no traces; say TRACES=FOLDER\n")
        return 0
    memory = Path("/dev/shm")  # noqa: S108 - a crash here is a copy of the files, not a lost page
    place = options.scratch or (memory if memory.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="sync-simulation-", dir=place) as scratch:
        found = run(Path(scratch), read_traces(traces), options)
    sys.stdout.write(told(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
