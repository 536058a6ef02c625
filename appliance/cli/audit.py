"""audit: the log of who did what here, and whether it is whole."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show, table
from appliance.core import wire
from appliance.core.plain import plain
from appliance.errors import NotFoundError, UsageError
from appliance.kit.http import HttpClient

_LONGEST = 160
_MOST_BYTES = 1 << 20


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("verify", help="Verify the audit log that is kept here.")(verify)
    group.command("tail", help="Show the newest audit records.")(tail)
    app.add_typer(group, name=name, help=help_text)


def verify(
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="A receipt's file, a stick that carries receipts, or NUMBER:DIGITS from the "
            "shift book; may be repeated.",
        ),
    ] = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    heads: list[dict[str, Any]] = []
    paths: list[Path] = []
    for text in against or []:
        head = _head(text)
        if head is not None:
            heads.append(head)
        else:
            paths.append(Path(text))
    with local_api(state_dir) as node:
        receipts: list[dict[str, Any]] = []
        for path in paths:
            receipts += _receipts(path, node) if path.is_dir() else [_receipt(path)]
        body = {"heads": heads, "receipts": receipts}
        found = node.call("POST", "/v1/audit/verify", body)
    kept = f"records {found['first']} to {found['last']}"
    text = (
        f"the audit log is whole: {kept} of the ledger {found['epoch']}, "
        f"{found['witnesses']} witnesses\n"
        f"  for the shift book: audit record {found['last']}, {found['hash'][:8]}"
    )
    if not found["witnesses"]:
        text += "\n  a tail that was cut off shows only with --against"
    show(found, text, as_json=as_json)


def tail(
    most: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=1000, help="How many records.")
    ] = 20,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", f"/v1/audit?most={most}")
    rows = [[str(r["seq"]), r["at"], r["kind"], _short(r["body"])] for r in found["records"]]
    lines = [table(["NUMBER", "AT", "KIND", "WHAT"], rows) if rows else "nothing happened yet"]
    if found["earlier"]:
        lines.append(f"{found['earlier']} records of earlier ledgers of this node are kept too")
    show(found, "\n".join(lines), as_json=as_json)


def _short(body: dict[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, sort_keys=True)
    return plain(text, _LONGEST)


def _head(text: str) -> dict[str, Any] | None:
    number, colon, digits = text.partition(":")
    if not colon or not number.isdecimal() or len(number) > 15:
        return None
    return {"seq": int(number), "hash": digits.lower()}


def _receipts(medium: Path, node: HttpClient) -> list[dict[str, Any]]:
    """Return the newest receipts on a medium of the ledger in force, as many as a request holds."""
    from appliance.bundle.format import courier  # noqa: PLC0415 - other commands do without

    me, epoch = node.call("GET", "/v1/status")["node"], node.call("GET", "/v1/audit")["epoch"]
    names = (file for file in courier.receipts(medium) if file.node == me)
    here = [file for file in names if file.path.name.startswith(f"{epoch}-")]
    if not here:
        raise NotFoundError(f"{medium} carries no receipt of {me} from its ledger {epoch}")
    found: list[dict[str, Any]] = []
    size = 0
    for file in reversed(here):
        if file.error is not None:
            raise file.error
        size += len(file.data)
        if found and size > _MOST_BYTES // 2:
            break
        found.append(wire.loads(file.data, what=str(file.path)))
    return found


def _receipt(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        hint = "a receipt's file, a stick, or NUMBER:DIGITS"
        raise NotFoundError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} is too long for a receipt")
    found = wire.loads(data, what=str(path))
    envelope = found.get("envelope", found)  # as `receipts show --json` prints it
    if not isinstance(envelope, dict):
        raise UsageError(f"{path} is no receipt")
    return envelope
