"""bundle push."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import AsJson, show
from appliance.cli.progress import ProgressLine
from appliance.core.quantity import format_bytes

Settings = Annotated[
    Path | None,
    typer.Option("--settings", help="A TOML file with [network]: accounts, certificates, rate."),
]


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("push", help="Put a bundle into an OCI registry, where nodes import it from.")(
        push
    )


def push(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    to: Annotated[str, typer.Argument(help="Where: oci://HOST/REPOSITORY:TAG.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    with ProgressLine(quiet=as_json) as line:
        found = _pusher(to, settings, line).push(folder)
    text = (
        f"pushed {found.files} files to {found.reference}, {format_bytes(found.sent_bytes)} sent\n"
        f"  {found.digest}"
    )
    data = {"reference": found.reference, "digest": found.digest, "files": found.files}
    show({**data, "sent_bytes": found.sent_bytes}, text, as_json=as_json)


def _pusher(to: str, settings: Path | None, line: ProgressLine) -> Any:
    from appliance.bundle.make.push import Pusher  # noqa: PLC0415
    from appliance.bundle.media import roads  # noqa: PLC0415 - `import` does without it
    from appliance.bundle.media.registry import Reference, login_for  # noqa: PLC0415
    from appliance.kit.throttle import Pace, Throttle  # noqa: PLC0415
    from appliance.settings import load  # noqa: PLC0415

    network = load(settings).network
    reference = Reference.parse(to)
    login = login_for(reference.registry, roads.auth_file(network))
    pace = Pace(Throttle(network.bytes_per_second or None))
    return Pusher(reference, roads.link_of(network), login, pace, line.update)
