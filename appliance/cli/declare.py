"""keys name-…, add-publisher, revoke-digest: what the next signed list tells the nodes."""

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.common import AsJson, show
from appliance.core import wire
from appliance.errors import MalformedError, NotFoundError
from appliance.trust.declarations import authorities_in
from appliance.trust.keys import PublicKey
from appliance.trust.passing import read_file
from appliance.trust.publishers import Publisher
from appliance.trust.repository import Repository

Folder = Annotated[Path, typer.Argument(help="The keys folder.")]
Name = Annotated[str, typer.Argument(help="The publisher's name: models/NAME/…")]


def register(group: typer.Typer) -> None:
    """Add the commands to the group of keys."""
    group.command("name-director", help="Name the hub that may direct this fleet.")(name_director)
    group.command("name-ca", help="Name the authorities of the hub's certificates.")(name_ca)
    group.command("add-publisher", help="Let a vendor approve its own models.")(add_publisher)
    group.command("remove-publisher", help="Take a vendor's word away.")(remove_publisher)
    group.command("revoke-digest", help="Deny a manifest or a blob to every node.")(revoke_digest)


def name_director(
    folder: Folder,
    hub: Annotated[Path, typer.Option(help="What `appliance hub keys --json` printed.")],
    verbs: Annotated[
        str | None,
        typer.Option(help="What it may command, with commas between; without it, all verbs."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    try:
        found = wire.loads(hub.read_bytes(), what=str(hub))
    except OSError as error:
        raise NotFoundError(f"cannot read {hub}: {error.strerror}") from error
    if not all(isinstance(found.get(name), str) for name in ("org", "director", "sync")):
        raise MalformedError(f"{hub} does not name org, director and sync")
    if verbs is not None:
        found["verbs"] = [verb.strip() for verb in verbs.split(",") if verb.strip()]
    epoch = Repository(folder).name_director(found)
    text = f"director epoch {epoch}; the next bundle that is built says so to the nodes"
    show({"epoch": epoch}, text, as_json=as_json)


def name_ca(
    folder: Folder,
    ca: Annotated[list[Path], typer.Option(help="Certificates in PEM; may be repeated.")],
    as_json: AsJson = False,
) -> None:
    found = {path: read_file(path) for path in ca}
    for path, data in found.items():
        authorities_in(data, str(path))
    epoch = Repository(folder).name_ca(list(found.values()))
    text = f"hub epoch {epoch}; the next bundle that is built says so to the nodes"
    show({"epoch": epoch}, text, as_json=as_json)


def add_publisher(
    folder: Folder,
    name: Name,
    key: Annotated[list[Path], typer.Option(help="NAME.pub of the publisher; may be repeated.")],
    threshold: Annotated[int, typer.Option(help="How many of them must sign.")] = 1,
    as_json: AsJson = False,
) -> None:
    keys = tuple(PublicKey.read(path) for path in key)
    Repository(folder).add_publisher(Publisher(name, keys, threshold))
    text = (
        f"{name} may approve models/{name}/*/*/* and nothing else\n"
        f"next: appliance keys adopt {folder} N.publisher-{name}.json, when {name} hands it over"
    )
    data = {"publisher": name, "keys": [each.public for each in keys], "threshold": threshold}
    show(data, text, as_json=as_json)


def remove_publisher(folder: Folder, name: Name, as_json: AsJson = False) -> None:
    Repository(folder).remove_publisher(name)
    text = f"from the next bundle on, what {name} alone approved is no longer listed"
    show({"removed": name}, text, as_json=as_json)


def revoke_digest(
    folder: Folder,
    digest: Annotated[str, typer.Argument(help="sha256:…, of a manifest or a blob.")],
    why: Annotated[str, typer.Option(help="The reason; nodes show it.")],
    stop: Annotated[bool, typer.Option("--stop", help="Also stop what runs already.")] = False,
    as_json: AsJson = False,
) -> None:
    epoch = Repository(folder).revoke_digest(digest, why, stop=stop)
    text = f"{digest} is denied from the next bundle on (epoch {epoch})"
    show({"epoch": epoch, "digest": digest, "stop": stop}, text, as_json=as_json)
