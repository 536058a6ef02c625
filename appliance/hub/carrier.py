"""What a stick brought home: receipts go in at the hub, answers go back onto the stick."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from appliance.bundle.format import courier
from appliance.bundle.format.courier import Carried
from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import ApplianceError, MalformedError, NotFoundError
from appliance.trust.receipt import MAX_RECEIPT_BYTES

_MOST_AT_ONCE = 512 << 10
Post = Callable[[NodeId, list[dict[str, Any]]], dict[str, Any]]


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
        except NotFoundError as error:  # a stranger's receipts keep nobody else's out
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
