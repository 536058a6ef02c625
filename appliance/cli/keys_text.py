"""How keys, roles and missing signatures read on a terminal."""

from pathlib import Path
from typing import Any

from appliance.cli.common import table
from appliance.trust.overview import SOLO
from appliance.trust.signing import Standing


def describe(found: dict[str, Any]) -> list[str]:
    """Return what a keys folder says of itself."""
    root = found["root"]
    lines = [
        f"{found['org']}: root {root['version']}, until {root['expires'][:10]}; "
        f"fingerprint of the first {root['fingerprint']}"
    ]
    if found["solo"]:
        lines.append(f"solo: {SOLO}")
    rows = [
        [
            each["role"],
            f"{each['threshold']} of {len(each['keys'])}",
            key["name"],
            key["public"],
            "here" if key["here"] else "elsewhere",
        ]
        for each in found["roles"]
        for key in each["keys"]
    ]
    head = ["role", "must sign", "holder", "public key", "private key"]
    return [*lines, *table(head, rows).split("\n"), *_lists(found), *_declared(found)]


def standing_lines(standings: list[Standing]) -> list[str]:
    """Return who signed and who is missing, a line for each threshold."""
    lines = []
    for each in standings:
        line = f"  {each.role}: {len(each.signed)} of {each.threshold}"
        if each.signed:
            line += f": {', '.join(each.signed)}"
        if each.missing:
            line += f"; missing {each.missing} of {', '.join(each.may)}"
        lines.append(line)
    return lines


def next_step(file: Path, standings: list[Standing], folder: Path | None = None) -> str:
    """Return what is to be done next with a file that is passed on."""
    missing = [each for each in standings if each.missing]
    if missing:
        people = " or ".join(dict.fromkeys(name for each in missing for name in each.may))
        return f"next: {people}, with: appliance keys sign {file.name} --key NAME.pem"
    if folder is not None:
        return f"in force: {file}; the next bundle carries it"
    return f"signed by enough; next: appliance keys adopt FOLDER {file.name}"


def _lists(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{role} {each['version']}, until {each['expires'][:10]}"
        for role in ("list", "timestamp")
        if (each := found[role]) is not None
    ]
    if found["waiting"] is not None:
        lines.append(f"list {found['waiting']} left and still lacks signatures")
    return lines


def _declared(found: dict[str, Any]) -> list[str]:
    lines = []
    for each in found["publishers"]:
        number = "waits for its first list" if each["list"] is None else f"list {each['list']}"
        names = ", ".join(f"{key['name']} ({key['public']})" for key in each["keys"])
        lines.append(f"publisher {each['name']}: {each['threshold']} of {names}; {number}")
    if director := found["director"]:
        lines.append(f"director: epoch {director['epoch']}, key {', '.join(director['keys'])}")
    if hub := found["hub"]:
        lines.append(f"hub: epoch {hub['epoch']}, {len(hub['ca'])} certificate authorities")
    for each in (found["revoked"] or {"digests": []})["digests"]:
        stops = "; stops what runs" if each["stop"] else ""
        lines.append(f"revoked: {each['digest']}: {each['why']}{stops}")
    return lines
