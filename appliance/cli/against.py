"""The options of `bundle build` that make a bundle for one receiver, by its receipt."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.progress import ProgressLine
from appliance.core.quantity import format_bytes

if TYPE_CHECKING:
    from appliance.bundle.make.against import Receipt

Against = Annotated[
    Path | None,
    typer.Option(help="A node's receipt: leave out what it holds, and make deltas to that."),
]
Bases = Annotated[
    list[Path] | None,
    typer.Option("--base", help="An older bundle or a store, to find what the node holds in."),
]
NodeKey = Annotated[
    str | None,
    typer.Option(help="The node's public key, to check the receipt by: the hub shows it."),
]


@dataclass(frozen=True)
class Thin:
    """What to say of a bundle that was made thin."""

    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def receipt(path: Path | None, node_key: str | None) -> "Receipt | None":
    """Read the receipt that was named; say so when nobody vouches for its key."""
    from appliance.bundle.make.against import read_receipt_file  # noqa: PLC0415

    if path is None:
        return None
    found = read_receipt_file(path, node_key)
    if not found.checked:
        said = f"its signature holds for the key that it names itself, {found.node_key[:16]}…"
        print(f"warning: receipt not checked: {said}; give --node-key", file=sys.stderr)
    return found


def thinned(bundle: Path, given: "Receipt | None", folders: list[Path], line: ProgressLine) -> Thin:
    """Leave out what the receiver holds; without a receipt, nothing."""
    from appliance.bundle.make.against import thin  # noqa: PLC0415

    if given is None:
        return Thin()
    found = thin(bundle, given, folders, line.update)
    made = f"{len(found.left_out)} blobs left out, {len(found.deltas)} as deltas"
    text = f"\nagainst receipt {given.seq} of {given.node}: {made}"
    text += f", {format_bytes(found.saved_bytes)} need not be carried"
    data = {
        "against": {"node": given.node, "seq": given.seq, "checked": given.checked},
        "left_out": [blob.digest for blob in found.left_out],
        "deltas": [{"digest": one.blob.digest, "bytes": one.bytes} for one in found.deltas],
        "saved_bytes": found.saved_bytes,
    }
    return Thin(text, data)
