"""Deltas in memory, and receipts as a node would write them."""

import io
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from appliance.bundle.format import delta
from appliance.bundle.format.delta import Recipe, Sized
from appliance.bundle.format.rebuild import rebuilt
from appliance.bundle.media.medium import read_at_most
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.trust import dsse
from appliance.trust.envelope import Slot
from appliance.trust.keys import SigningKey
from tests.helpers.signing import digest_of, new_key


def sized(data: bytes) -> Sized:
    return Sized(Digest(digest_of(data)), len(data))


def delta_of(new: bytes, *olds: bytes) -> tuple[Recipe, bytes]:
    """Return the recipe for ``new`` from ``olds``, and what is new."""
    bases = [(sized(old), delta.chunks(io.BytesIO(old), len(old))[0]) for old in olds]
    chunks, digest = delta.chunks(io.BytesIO(new), len(new))
    assert digest == digest_of(new)
    recipe = delta.recipe(sized(new), chunks, bases)
    fresh, at = b"", 0
    for step in recipe.steps:
        if step.base is None:
            fresh += new[at : at + step.length]
        at += step.length
    return recipe, fresh


def rebuild(recipe: Recipe, fresh: bytes, folder: Path, *olds: bytes, done: int = 0) -> bytes:
    """Rebuild from files in ``folder``, each named by its digest."""
    bases = {}
    for old in olds:
        bases[sized(old).digest] = path = folder / digest_of(old)
        path.write_bytes(old)

    def open_new(offset: int) -> nullcontext[BinaryIO]:
        return nullcontext(io.BytesIO(fresh[offset:]))

    with rebuilt(recipe, bases, open_new, done) as file:
        return read_at_most(file, len(fresh) + sum(map(len, olds)) + recipe.output.size)


def receipt(held: Collection[str], key: SigningKey | None = None, **changed: object) -> bytes:
    """Return a receipt of a node that holds these digests, signed by ``key`` or a new one."""
    signer = key or new_key()
    payload: dict[str, object] = {
        "org": "acme",
        "node": "box-1",
        "nodeKey": signer.public,
        "seq": 7,
        "store": sorted(held),
        **changed,
    }
    return dsse.sign(Slot.RECEIPT, wire.dumps(payload), signer)
