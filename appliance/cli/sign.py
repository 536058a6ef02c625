"""bundle sign: several people sign one bundle, each with an own key."""

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.asking import PassphraseFile, Yes, confirm, passphrase, screen
from appliance.cli.common import AsJson, show
from appliance.core.plain import plain
from appliance.core.quantity import format_bytes

Keys = Annotated[
    list[Path] | None, typer.Option("--key", help="Your private key, NAME.pem; may be repeated.")
]


def sign(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    key: Keys = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="Your keys folder, or a root that you trust: to compare with."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    from appliance.bundle.make.countersign import open_session  # noqa: PLC0415

    session = open_session(bundle, key or [], keys, passphrase(passphrase_file))
    done: list[tuple[str, str]] = []
    session.check_keys()
    if session.ceremony.may_sign_now(session.keyring):
        confirm(render(session.review()), yes=yes)
        done = session.sign(datetime.datetime.now(datetime.UTC))
    found = {"signed": [{"file": file, "by": name} for file, name in done], **session.review()}
    show(found, render(found), as_json=as_json)


def next_to_sign(people: list[str], bundle: Path) -> str:
    """Return what to add to the news that a bundle was built, while it lacks signatures."""
    if not people:
        return ""
    return (
        "\nunfinished: nodes refuse it until enough people have signed it"
        f"\nnext: {plain(' or '.join(people))}, with: appliance bundle sign {bundle} --key NAME.pem"
    )


def render(found: dict[str, Any]) -> str:
    """Return a review as a person reads it."""
    parts = (_heading(found), _changes(found), _signed(found), _standings(found), [_next(found)])
    return screen(line for part in parts for line in part)


def _heading(found: dict[str, Any]) -> list[str]:
    root, number = found["root"], found["list"]
    checked = "the one you keep" if root["trusted"] else "compare it with your own copy"
    against = found["against"]
    before = (
        f"compared with list {against['number']} of {against['issued'][:10]}"
        if against
        else "there is no earlier list to compare it with"
    )
    org, until = found["org"] or "an unnamed organisation", number["expires"][:10]
    return [
        f"{found['bundle']}: list {number['number']} of {org}",
        f"  root {root['version']}, fingerprint {root['fingerprint']}: {checked}",
        f"  issued {number['issued'][:10]}, may be imported until {until}; {before}",
        *(["  solo: one person alone can approve everything"] if found["solo"] else []),
    ]


def _changes(found: dict[str, Any]) -> list[str]:
    if found["finished"]:
        return []
    signs = {"added": "+", "removed": "-", "replaced": "~"}
    lines = []
    for each in found["changes"]:
        size = "" if each["bytes"] is None else f"  {format_bytes(each['bytes'])}"
        here = "" if each.get("here", True) else "  (not in this bundle)"
        lines.append(f"  {signs[each['change']]} {each['path']}  {each['digest']}{size}{here}")
        lines += [
            f"      {name}: {json.dumps(value)}" for name, value in each.get("document", {}).items()
        ]
    return lines or ["  nothing is approved that was not, nothing taken away"]


def _signed(found: dict[str, Any]) -> list[str]:
    return [f"signed now: {each['file']} by {each['by']}" for each in found.get("signed", [])]


def _standings(found: dict[str, Any]) -> list[str]:
    lines = []
    for each in found["standings"]:
        who = ", ".join(each["signed"]) or "nobody yet"
        missing = f"; missing {each['missing']} of {', '.join(each['may'])}"
        lines.append(
            f"  {each['role']:<10}{len(each['signed'])} of {each['threshold']}: {who}"
            f"{missing if each['missing'] else ''}"
        )
    return lines


def _next(found: dict[str, Any]) -> str:
    if found["finished"]:
        return "finished: nodes will take it"
    people = " or ".join(found["next"])
    return f"next: {people}, with: appliance bundle sign {found['bundle']} --key NAME.pem"
