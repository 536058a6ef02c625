"""The stick road at the hub: what sticks brought home goes in, answers go back onto the stick.

Importing is replaying: the hub takes each message as if the broker had brought it, so neither the
order of sticks matters nor how often one comes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from appliance.bundle.format import courier
from appliance.bundle.format.courier import Carried, Letter
from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import (
    ApplianceError,
    MalformedError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    ScopeError,
    SignatureError,
    StateUnusableError,
)
from appliance.sync.topics import NodeTopics, parse_downward
from appliance.trust.dsse import MAX_ENVELOPE_BYTES
from appliance.trust.receipt import MAX_RECEIPT_BYTES

_MOST_AT_ONCE = 512 << 10
_UNWRITTEN = (NoSpaceError, StateUnusableError)
Post = Callable[[NodeId, list[dict[str, Any]]], dict[str, Any]]
Ask = Callable[[NodeId], dict[str, Any]]


@dataclass(slots=True)
class Delivery:
    """What became of one node's receipts. ``answered``: a signed time lies on the stick now.

    ``unwritten`` says why it does not, although it was asked for.
    """

    node: str
    new: int = 0
    known: int = 0
    forks: int = 0
    answered: bool = False
    refused: list[dict[str, Any]] = field(default_factory=list)
    chains: list[dict[str, Any]] = field(default_factory=list)
    unwritten: dict[str, Any] | None = None

    @property
    def ours(self) -> bool:
        """Whether any of it is the node's own."""
        return self.new + self.known + self.forks > 0


def import_folder(medium: Path, post: Post) -> list[Delivery]:
    """Hand the receipts on a medium in, and write the signed times that nodes asked for.

    Args:
        medium: The stick's folder.
        post: Hands receipts of one node to the hub and returns its answer.

    Raises:
        NotFoundError: there is no such medium, or no receipt on it.
        PeerUnreachableError: the hub does not answer.
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
    for group in _groups(_parsed(files, made)):
        try:
            answer = post(node, [envelope for _, envelope in group])
        except (
            NotFoundError,
            RefusedError,
        ) as error:  # a stranger's receipts keep nobody else's out
            made.refused.append(error.to_wire())
            return made
        for (road, _), result in zip(group, answer["results"], strict=True):
            _count(made, result, road)
        time, made.chains = answer["time"], answer["chains"]
    if not made.ours:
        made.refused = _strange(node, made.refused)
    elif time is not None:
        data = {courier.TIME: wire.dumps(time)}
        try:
            courier.write(medium, courier.answers_folder(medium, node), data)
            made.answered = True
        except _UNWRITTEN as error:
            made.unwritten = error.to_wire()
    return made


def _strange(node: str, refused: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say once, of a folder in which nothing was the node's, that it is somebody else's."""
    foreign = [r for r in refused if r["code"] in (SignatureError.code, ScopeError.code)]
    if not foreign:
        return refused
    error = SignatureError(
        f"what up/{node} holds is of another organisation, or of another machine called {node}",
        hint="carry it to the hub of that organisation; if the machine is this one's successor: "
        "appliance hub admit",
    )
    return [error.to_wire(), *(r for r in refused if r not in foreign)]


def _parsed(files: Iterable[Carried], made: Delivery) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
        try:
            if file.error is not None:
                raise file.error
            if len(file.data) > MAX_RECEIPT_BYTES:
                raise MalformedError(f"{file.path} is too long for a receipt")
            yield str(file.path), wire.loads(file.data, what=str(file.path))
        except ApplianceError as error:
            made.refused.append({**error.to_wire(), "hint": error.hint or courier.AGAIN})


def _groups(
    envelopes: Iterable[tuple[str, dict[str, Any]]],
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Gather what has a road, which is the file's name, and what goes to the hub."""
    group: list[tuple[str, dict[str, Any]]] = []
    size = 0
    for road, envelope in envelopes:
        length = len(wire.dumps(envelope))
        if group and size + length > _MOST_AT_ONCE:
            yield group
            group, size = [], 0
        group.append((road, envelope))
        size += length
    if group:
        yield group


def _count(made: Delivery, result: dict[str, Any], road: str) -> None:
    if result["result"] == "new":
        made.new += 1
    elif result["result"] == "known":
        made.known += 1
    elif result["result"] == "equivocation":
        made.forks += 1
    else:
        made.refused.append(_at(road, result))


def _at(road: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return a refusal with the name of the file, and what to do."""
    what, hint = f"{road}: {result['what']}", result.get("hint") or courier.AGAIN
    return {**result, "what": what, "hint": hint}


@dataclass(slots=True)
class Replay:
    """What became of one node's messages. ``positions``: how far the hub has each stream by now.

    ``known`` counts what said nothing new, ``early`` what has to come again. ``lacking`` are
    records that lie between what the hub has and what this stick carries. ``unwritten`` says why
    the answers are not on the stick.
    """

    node: str
    taken: int = 0
    known: int = 0
    early: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    positions: list[dict[str, Any]] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    unwritten: dict[str, Any] | None = None


def import_letters(medium: Path, post: Post, ask: Ask, ours: Collection[str] = ()) -> list[Replay]:
    """Hand in everything but receipts, and write what the hub has to say onto the medium.

    Args:
        medium: The stick's folder.
        post: Hands messages of one node to the hub and returns its answer.
        ask: Returns what the hub has to say to a node.
        ours: Nodes of which the medium is known to carry something; else only a node of which a
            message was taken is answered.

    Raises:
        NotFoundError: there is no such medium.
        PeerUnreachableError: the hub does not answer.
    """
    replays = []
    for node in courier.nodes(medium):
        made, packs = Replay(node), list[tuple[str, str, int]]()
        letters = _noting(courier.upward(medium, node), packs)
        if not _replay(_messages(letters, made), made, post):
            continue
        made.lacking = list(_lacking(packs, made.positions))
        if made.taken or made.known or made.early or node in ours:
            _answer(medium, made, ask)
        else:
            made.refused = _strange(node, made.refused)
        replays.append(made)
    return replays


def _answer(medium: Path, made: Replay, ask: Ask) -> None:
    """Write the answers; what was taken in is in, whether they fit or not."""
    try:
        made.written = export_node(medium, NodeId(made.node), ask)
    except (NotFoundError, RefusedError) as error:
        made.refused.append(error.to_wire())
    except _UNWRITTEN as error:
        made.unwritten = error.to_wire()


def _replay(messages: Iterator[tuple[str, dict[str, Any]]], made: Replay, post: Post) -> bool:
    """Hand messages in, a group at a time; return whether there were any."""
    none = True
    try:
        for group in _groups(messages):
            none = False
            answer = post(NodeId(made.node), [message for _, message in group])
            made.positions = answer["positions"]
            for (road, _), result in zip(group, answer["results"], strict=True):
                if result["result"] == "taken":
                    made.taken += 1
                elif result["result"] == "known":
                    made.known += 1
                elif result["result"] == "early":
                    made.early += 1
                else:
                    made.refused.append(_at(road, result))
    except (NotFoundError, RefusedError) as error:  # a stranger keeps nobody else's out
        made.refused.append(error.to_wire())
    return not none or bool(made.refused)


def _noting(letters: Iterable[Letter], packs: list[tuple[str, str, int]]) -> Iterator[Letter]:
    """Pass letters on, and note of which ledger and stream each pack is, and where it begins."""
    for letter in letters:
        if letter.kind == "stream" and letter.error is None:
            epoch, first = courier.pack_of(letter.path.name)
            packs.append((epoch, str(letter.name), first))
        yield letter


def _messages(letters: Iterable[Letter], made: Replay) -> Iterator[tuple[str, dict[str, Any]]]:
    for letter in letters:
        if letter.error is not None:
            made.refused.append(letter.error.to_wire())
            continue
        topic, is_pack = _topic(letter), letter.kind == "stream"
        for line, part in enumerate(letter.parts, start=1):
            road = f"{letter.path}, line {line}" if is_pack else str(letter.path)
            if len(part) > MAX_ENVELOPE_BYTES:
                error = MalformedError(f"{road}: too long for a message", hint=courier.AGAIN)
                made.refused.append(error.to_wire())
            elif part:
                yield road, {"topic": topic, "payload": part.decode("utf-8", "replace")}


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
