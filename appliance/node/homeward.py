"""What a ledger still has to tell the hub: sealed, and as files of a stick."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.format import courier
from appliance.errors import ApplianceError, NoSpaceError
from appliance.kit.clock import parse_rfc3339, rfc3339
from appliance.kit.files import make_folder
from appliance.ledger import meta, sealed, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node import identity
from appliance.sync import batch
from appliance.trust.envelope import Addressee
from appliance.trust.keys import Signer
from appliance.trust.store import TrustStore

_FOLDER = "before-restore-"


@dataclass(frozen=True, slots=True)
class Left:
    """What a ledger that makes way had not told the hub.

    ``records`` of it lie in ``folder``, as on a stick; ``why_not`` says why nothing could be
    written. ``epochs`` are its own and those of the ledgers before it.
    """

    folder: str = ""
    records: int = 0
    why_not: str = ""
    epochs: tuple[str, ...] = ()


def seal(ledger: Ledger, stream: Stream, me: Addressee, key: Signer, at: datetime.datetime) -> None:
    """Put all records of a stream that wait into batches. Blocking."""
    make = batch.maker(stream, me, key, rfc3339(at))
    while ledger.record(
        lambda db: streams.seal(db, stream, make, most=batch.MOST_RECORDS)
    ).result():
        pass


def packs(
    ledger: Ledger, stream: Stream, size: int = courier.PACK_BYTES
) -> Iterator[tuple[str, sealed.Pack]]:
    """Yield what of a stream was not acknowledged, each with the name of its file.

    Args:
        ledger: Whose.
        stream: Which.
        size: How many bytes a file holds at most.
    """
    for pack in sealed.packs(ledger, stream, size):
        yield courier.pack_name(ledger.epoch, pack.first), pack


def leave(state: Path, at: str) -> Left:
    """Write what the ledger in a state folder has not told the hub beside it. Blocking.

    Args:
        state: The folder of a node that no controller holds.
        at: The time, UTC.

    Raises:
        NoSpaceError: it does not fit.
    """
    if not (state / "identity" / "node.json").exists():
        return _left_before(state)
    if not (state / "node.db").exists():
        return Left()
    try:
        ledger = Ledger(state / "node.db")
    except NoSpaceError:
        raise
    except ApplianceError as error:
        return Left(why_not=f"the ledger that was here cannot be read: {error.what}")
    try:
        return _leave(state, ledger, at)
    except NoSpaceError:
        raise
    except ApplianceError as error:
        return Left(why_not=f"what the ledger that was here says cannot be read: {error.what}")
    finally:
        ledger.close()


def _left_before(state: Path) -> Left:
    """Return what an earlier try wrote before it was cut."""
    found = sorted(state.glob(f"{_FOLDER}*"), key=lambda path: path.stat().st_mtime)
    epochs = tuple(path.name.removeprefix(_FOLDER) for path in found)
    return Left(str(found[-1]), epochs=epochs) if found else Left()


def _leave(state: Path, ledger: Ledger, at: str) -> Left:
    epochs = (*ledger.read(meta.earlier_epochs), ledger.epoch)
    found = ledger.read(lambda db: [streams.position(db, s) for s in Stream])
    if not (waits := sum(p.written - p.acked_upto for p in found)):
        return Left(epochs=epochs)
    director = TrustStore(state / "tuf").director()
    if director is None:
        why = f"{waits} records of the ledger that was here are gone: no hub was named to it"
        return Left(why_not=why, epochs=epochs)
    mine = identity.load(state)
    me = mine.at(director.org, ledger.epoch)
    medium, records = state / f"{_FOLDER}{ledger.epoch}", 0
    make_folder(medium, mode=0o700)
    for stream in Stream:
        seal(ledger, stream, me, mine.key, parse_rfc3339(at))
        folder = courier.batches_folder(medium, me.node, stream)
        for name, pack in packs(ledger, stream):
            courier.write(medium, folder, {name: pack.data})
            records += pack.records
    return Left(str(medium), records, "", epochs)
