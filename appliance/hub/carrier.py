"""The stick road at the hub: what sticks brought home goes in, answers go back onto the stick.

Importing is replaying: the hub takes each message as if the broker had brought it, so neither the
order of sticks matters nor how often one comes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from appliance.bundle.format import courier
from appliance.bundle.format.courier import Carried, Letter
from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import ApplianceError, MalformedError, NotFoundError, RevokedError
from appliance.sync.topics import NodeTopics, parse_downward
from appliance.trust.dsse import MAX_ENVELOPE_BYTES
from appliance.trust.receipt import MAX_RECEIPT_BYTES

_MOST_AT_ONCE = 512 << 10
Post = Callable[[NodeId, list[dict[str, Any]]], dict[str, Any]]
Ask = Callable[[NodeId], dict[str, Any]]


@dataclass(slots=True)
class Delivery:
    """What became of one node's receipts. ``answered``: a signed time lies on the stick now."""

    node: str
    new: int = 0
    known: int = 0
    forks: int = 0
    answered: bool = False
    refused: list[dict[str, Any]] = field(default_factory=list)
    chains: list[dict[str, Any]] = field(default_factory=list)


def import_folder(medium: Path, post: Post) -> list[Delivery]:
    """Hand the receipts on a medium in, and write the signed times that nodes asked for.

    Args:
        medium: The stick's folder.
        post: Hands receipts of one node to the hub and returns its answer.

    Raises:
        NotFoundError: there is no such medium, or no receipt on it.
        PeerUnreachableError: the hub does not answer.
        NoSpaceError, StateUnusableError: a time could not be written; the receipts are in.
    """
    found = [
        _deliver(medium, node, files, post)
        for node, files in groupby(courier.receipts(medium), key=lambda carried: carried.node)
    ]
    if not found:
        raise NotFoundError(
            f"there are no receipts on {medium}",
            hint="at a node: appliance receipts export FOLDER",
        )
    return found


def _deliver(medium: Path, node: NodeId, files: Iterable[Carried], post: Post) -> Delivery:
    made, time = Delivery(node), None
    for envelopes in _groups(_parsed(files, made)):
        try:
            answer = post(node, envelopes)
        except (NotFoundError, RevokedError) as error:  # these keep nobody else's out
            made.refused.append(error.to_wire())
            return made
        for result in answer["results"]:
            _count(made, result)
        time, made.chains = answer["time"], answer["chains"]
    if time is not None:
        data = {courier.TIME: wire.dumps(time)}
        courier.write(medium, courier.answers_folder(medium, node), data)
        made.answered = True
    return made


def _parsed(files: Iterable[Carried], made: Delivery) -> Iterator[dict[str, Any]]:
    for file in files:
        try:
            if len(file.data) > MAX_RECEIPT_BYTES:
                raise MalformedError(f"{file.path} is too long for a receipt")
            yield wire.loads(file.data, what=str(file.path))
        except ApplianceError as error:
            made.refused.append(error.to_wire())


def _groups(envelopes: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for envelope in envelopes:
        length = len(wire.dumps(envelope))
        if group and size + length > _MOST_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(envelope)
        size += length
    if group:
        yield group


def _count(made: Delivery, result: dict[str, Any]) -> None:
    if result["result"] == "new":
        made.new += 1
    elif result["result"] == "known":
        made.known += 1
    elif result["result"] == "equivocation":
        made.forks += 1
    else:
        made.refused.append(result)


@dataclass(slots=True)
class Replay:
    """What became of one node's messages. ``positions``: how far the hub has each stream by now.

    ``lacking`` are records that lie between what the hub has and what this stick carries.
    """

    node: str
    taken: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    positions: list[dict[str, Any]] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


def import_letters(medium: Path, post: Post, ask: Ask) -> list[Replay]:
    """Hand in everything but receipts, and write what the hub has to say onto the medium.

    Args:
        medium: The stick's folder.
        post: Hands messages of one node to the hub and returns its answer.
        ask: Returns what the hub has to say to a node.

    Raises:
        NotFoundError: there is no such medium.
        CorruptError: a file on it cannot be read.
        PeerUnreachableError: the hub does not answer.
        NoSpaceError, StateUnusableError: the answers could not be written; the messages are in.
    """
    replays = []
    for node in courier.nodes(medium):
        made, packs = Replay(node), list[tuple[str, str, int]]()
        letters = _noting(courier.upward(medium, node), packs)
        if _replay(medium, _messages(letters, made), made, (post, ask)):
            made.lacking = list(_lacking(packs, made.positions))
            replays.append(made)
    return replays


def _replay(
    medium: Path, messages: Iterator[dict[str, Any]], made: Replay, hub: tuple[Post, Ask]
) -> bool:
    """Hand messages in, a group at a time; return whether there were any."""
    post, ask = hub
    node, none = NodeId(made.node), True
    try:
        for group in _groups(messages):
            none = False
            answer = post(node, group)
            made.positions = answer["positions"]
            for result in answer["results"]:
                if result["result"] == "taken":
                    made.taken += 1
                else:
                    made.refused.append(result)
        if not none:
            made.written = export_node(medium, node, ask)
    except (NotFoundError, RevokedError) as error:  # these keep nobody else's out
        made.refused.append(error.to_wire())
    return not none or bool(made.refused)


def _noting(letters: Iterable[Letter], packs: list[tuple[str, str, int]]) -> Iterator[Letter]:
    """Pass letters on, and note of which ledger and stream each pack is, and where it begins."""
    for letter in letters:
        if letter.kind == "stream":
            epoch, first = courier.pack_of(letter.path.name)
            packs.append((epoch, str(letter.name), first))
        yield letter


def _messages(letters: Iterable[Letter], made: Replay) -> Iterator[dict[str, Any]]:
    for letter in letters:
        topic = _topic(letter)
        for part in letter.parts:
            if len(part) > MAX_ENVELOPE_BYTES:
                error = MalformedError(f"{letter.path.name} holds what is too long for a message")
                made.refused.append(error.to_wire())
                continue
            yield {"topic": topic, "payload": part.decode("utf-8", "replace")}


def _topic(letter: Letter) -> str:
    topics, name = NodeTopics(letter.node), letter.name or ""
    return {
        "stream": topics.stream(name),
        "outcome": topics.outcome(name),
        "reported": topics.reported,
        "request": topics.request,
    }[letter.kind]


def _lacking(
    packs: Iterable[tuple[str, str, int]], positions: list[dict[str, Any]]
) -> Iterator[str]:
    """Say which records an earlier stick, or the link, has yet to bring."""
    known = {(p["epoch"], p["stream"]): p["upto"] for p in positions}
    for epoch, stream, first in packs:
        upto = known.get((epoch, stream), 0)
        if first > upto + 1:
            yield f"{stream}: records {upto + 1} to {first - 1} of the ledger {epoch}"


def export_node(medium: Path, node: NodeId, ask: Ask) -> list[str]:
    """Write what the hub has to say to one node; return the names of the files.

    Raises:
        NotFoundError: there is no such medium, or the hub does not know the node.
        RevokedError: the node was revoked: nothing is written.
        NoSpaceError, StateUnusableError: as ``courier.write``.
    """
    files = {}
    for message in ask(node)["messages"]:
        found = parse_downward(message["topic"], node)
        if found is not None:
            files[courier.down_name(found.kind, found.name)] = message["payload"].encode()
    courier.write(medium, courier.answers_folder(medium, node), files)
    return sorted(files)
