"""bundle offers."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import AsJson, show
from appliance.core.plain import plain


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("offers", help="List the bundles on mounted sticks; imports nothing.")(offers)


def offers(
    at: Annotated[
        Path | None, typer.Option("--at", help="Look in this folder instead of on sticks.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    found = _found(at)
    show(found, "\n".join(_lines(found)) or "no stick is mounted", as_json=as_json)


def _found(at: Path | None) -> list[dict[str, Any]]:
    from appliance.bundle.media import offers as looking  # noqa: PLC0415 - most commands do without
    from appliance.hardware import sticks  # noqa: PLC0415

    places: list[tuple[str, Path, tuple[str, ...]]]
    places = [(stick.name, stick.folder, stick.lacks) for stick in sticks.mounted()]
    if at is not None:
        places = [(plain(str(at)), at, ())]
    return [
        {
            "place": name,
            "folder": plain(str(folder)),
            "mounted_without": list(lacks),
            "bundles": [
                {
                    "folder": plain(str(offer.folder)),
                    "name": offer.name,
                    "version": offer.version,
                    "problem": offer.problem and plain(offer.problem),
                }
                for offer in looking.on(folder)
            ],
        }
        for name, folder, lacks in places
    ]


def _lines(found: list[dict[str, Any]]) -> list[str]:
    lines = []
    for place in found:
        lines.append(f"{place['place']}, mounted at {place['folder']}")
        if place["mounted_without"]:
            lines.append(f"  mounted without {', '.join(place['mounted_without'])}")
        for bundle in place["bundles"]:
            if bundle["problem"]:
                lines.append(f"  {bundle['folder']}: {bundle['problem']}")
            else:
                lines.append(f"  says it is {bundle['name']} {bundle['version']}")
                lines.append(f"    appliance bundle import {shlex.quote(bundle['folder'])}")
        if not place["bundles"]:
            lines.append("  holds no bundle")
    return lines
