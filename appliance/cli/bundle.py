"""bundle lock, build, sign, import."""

import datetime
import os
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli import against as thinning
from appliance.cli import inspect, offers, push
from appliance.cli.asking import passphrase
from appliance.cli.common import (
    DEFAULT_STATE,
    AsJson,
    StateDir,
    bytes_of,
    controller,
    local_api,
    show,
    table,
)
from appliance.cli.progress import ProgressLine, render
from appliance.cli.sign import next_to_sign, sign
from appliance.core.quantity import format_bytes

Definition = Annotated[Path, typer.Argument(help="A bundle definition, such as bundles/demo.yaml.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", envvar="APPLIANCE_CACHE", help="Where downloads are kept by digest."),
]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("lock", help="Fetch a definition's sources and write the digests seen.")(lock)
    group.command("build", help="Make a signed bundle from a locked definition.")(build)
    group.command("sign", help="Add your signatures to a bundle; say who is next.")(sign)
    group.command("import", help="Verify a bundle and take it into this node.")(import_)
    group.command("queue", help="Show the imports that are under way or wait.")(queue)
    group.command("split", help="Cut a bundle into volumes for FAT32 and small sticks.")(split)
    inspect.register(group)
    push.register(group)
    offers.register(group)
    app.add_typer(group, name=name, help=help_text)


def lock(definition: Definition, cache: Cache = None, as_json: AsJson = False) -> None:
    from appliance.bundle.make import build as builder  # noqa: PLC0415 - `import` does without it

    path = builder.lock(builder.read_definition(definition), cache_folder(cache))
    show({"lock": str(path)}, f"wrote {path}", as_json=as_json)


def build(  # noqa: PLR0913 - an argument an option
    definition: Definition,
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's new folder.")],
    *,
    keys: Annotated[Path, typer.Option(help="The organisation's keys folder.")] = Path("keys"),
    cache: Cache = None,
    against: thinning.Against = None,
    base: thinning.Bases = None,
    node_key: thinning.NodeKey = None,
    as_json: AsJson = False,
) -> None:
    from appliance.bundle.make import build as builder  # noqa: PLC0415
    from appliance.bundle.make.countersign import to_sign  # noqa: PLC0415
    from appliance.trust.repository import Repository  # noqa: PLC0415

    receipt = thinning.receipt(against, node_key)
    with ProgressLine(quiet=as_json) as line:
        found = builder.build(
            builder.read_definition(definition),
            output,
            Repository(keys, passphrase(None)),
            cache_folder(cache),
            datetime.datetime.now(datetime.UTC),
            line.update,
        )
        thinned = thinning.thinned(output, receipt, [cache_folder(cache), *(base or [])], line)
    text = (
        f"built {found.name} {found.version} in {found.folder}: "
        f"{', '.join(found.models)}, {format_bytes(found.size)}{thinned.text}"
    )
    people = to_sign(found.folder)
    data = {"name": found.name, "version": found.version, "folder": str(found.folder)}
    sizes = {"models": found.models, "bytes": found.size, **thinned.data, "next": people}
    show({**data, **sizes}, text + next_to_sign(people, found.folder), as_json=as_json)


def import_(
    bundle: Annotated[
        str,
        typer.Argument(help="The bundle's folder, or https://HOST/PATH, or oci://HOST/REPO:TAG."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Verify and count only; change nothing.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the site's transfer window.")
    ] = False,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    source = bundle if "://" in bundle else str(Path(bundle).absolute())
    body = {"path": source, "dryRun": dry_run, "now": now}
    with local_api(state_dir) as node, ProgressLine(quiet=as_json) as line:
        found = line.follow(node.objects("POST", "/v1/import", body))["imported"]
    others = [path for path in found["others"] if not path.startswith("boms/")]
    added = ", ".join([*found["added"], *others]) or "nothing new"
    done, copied = ("would import", "to copy") if dry_run else ("imported", "copied")
    size = format_bytes(found["copied_bytes"])
    text = f"{done} {found['name']} {found['version']}: {added}; {size} {copied}"
    text += "".join(
        f"\n  {name} does not fit this machine: {why}"
        for name, why in found["does_not_fit"].items()
    )
    text += "".join(
        f"\n  {name} takes the place of this site's own; its bytes go with the next store gc"
        for name in found["displaced"]
    )
    show(found, text, as_json=as_json)


def queue(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    found = controller(state_dir).call("GET", "/v1/import")["imports"]
    rows = [
        [e["name"], e["by"], render(e["step"]["doing"], e["step"]["done"], e["step"]["total"], 0)]
        for e in found
    ]
    text = table(["BUNDLE", "BY", "STATE"], rows) if rows else "no import is under way"
    show(found, text, as_json=as_json)


def split(
    bundle: Annotated[Path, typer.Argument(help="A whole bundle's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the volumes are made.")],
    part: Annotated[
        str, typer.Option(help="The largest file, such as 2Gi; FAT32 holds just under 4Gi.")
    ] = "4294967295",
    volume: Annotated[
        str | None, typer.Option(help="The most that one stick holds, such as 14Gi.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    from appliance.bundle.make import split as splitter  # noqa: PLC0415

    room = None if volume is None else bytes_of(volume)
    with ProgressLine(quiet=as_json) as line:
        found = splitter.split(
            bundle, output, part_bytes=bytes_of(part), volume_bytes=room, progress=line.update
        )
    names = [str(path) for path in found]
    text = "\n".join([f"{len(names)} volumes; import them in this order:", *names])
    show({"volumes": names}, text, as_json=as_json)


def cache_folder(given: Path | None) -> Path:
    """Return where downloads are kept: the folder given, or the user's usual one."""
    if given is not None:
        return given
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edge-ai-appliance"
