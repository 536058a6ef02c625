"""Requests for certificates on a stick and their answers.

A node writes ``up/NODE/csr.json``, its hub ``dn/NODE/cert.pem``.

A stick comes from anywhere: links are followed nowhere, and every number and length is bounded.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.format import courier
from appliance.bundle.media.medium import FolderMedium
from appliance.core.ids import NodeId, node_id
from appliance.errors import NotFoundError
from appliance.kit.files import translated
from appliance.trust.certificates import MAX_CHAIN_BYTES
from appliance.trust.dsse import MAX_ENVELOPE_BYTES

REQUEST, CERTIFICATE = "csr.json", "cert.pem"
_MOST_NODES = 10_000


@dataclass(frozen=True, slots=True)
class Request:
    """A node's request as it lies on a medium."""

    node: NodeId
    path: Path
    data: bytes


def write_request(medium: Path, node: str, data: bytes) -> None:
    """Write a node's request.

    Raises:
        NotFoundError, NoSpaceError, StateUnusableError: as ``courier.write``.
    """
    courier.write(medium, medium / "up" / node, {REQUEST: data})


def write_answer(medium: Path, node: str, chain: bytes) -> None:
    """Write the certificate that answers a node.

    Raises:
        NotFoundError, NoSpaceError, StateUnusableError: as ``courier.write``.
    """
    courier.write(medium, courier.answers_folder(medium, node), {CERTIFICATE: chain})


def read_requests(medium: Path) -> Iterator[Request]:
    """Yield the requests on a medium, by node.

    Raises:
        NotFoundError: there is no such medium.
        CorruptError, MalformedError: one is no regular file, or longer than an envelope.
    """
    courier.check_medium(medium)
    folder, found = medium / "up", FolderMedium(medium)
    for node in _nodes(folder):
        path = f"up/{node}/{REQUEST}"
        if not (folder / node).is_symlink() and found.size(path) is not None:
            yield Request(node, medium / path, found.read(path, MAX_ENVELOPE_BYTES))


def answer_file(medium: Path, node: str) -> Path:
    """Return where a medium carries the certificate for a node, if it does."""
    return medium / "dn" / node / CERTIFICATE


def read_answer(medium: Path, node: str) -> bytes:
    """Return the certificate that a medium carries for a node.

    Raises:
        NotFoundError: it carries none, or there is no such medium.
        MalformedError: it is longer than a chain.
    """
    courier.check_medium(medium)
    found, path = FolderMedium(medium), f"dn/{node}/{CERTIFICATE}"
    if found.size(path) is None:
        raise NotFoundError(
            f"{medium} carries no certificate for {node}",
            hint=f"appliance enrol export {medium}, then at the hub: "
            f"appliance hub enrol import {medium}",
        )
    return found.read(path, MAX_CHAIN_BYTES)


def _nodes(folder: Path) -> Iterator[NodeId]:
    if folder.is_symlink() or not folder.is_dir():
        return
    with translated(f"reading {folder}"), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in itertools.islice(entries, _MOST_NODES))
    for name in names:
        try:
            yield node_id(name)
        except ValueError:
            continue  # not a node's: it never reaches a screen
