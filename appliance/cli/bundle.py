"""bundle lock, build, import."""

import datetime
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli import against as thinning
from appliance.cli import inspect
from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show
from appliance.cli.progress import ProgressLine
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
    group.command("import", help="Verify a bundle and take it into this node.")(import_)
    inspect.register(group)
    app.add_typer(group, name=name, help=help_text)


def lock(definition: Definition, cache: Cache = None, as_json: AsJson = False) -> None:
    from appliance.bundle import build as builder  # noqa: PLC0415 - `import` does without it

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
    from appliance.bundle import build as builder  # noqa: PLC0415
    from appliance.trust.repository import Repository  # noqa: PLC0415

    receipt = thinning.receipt(against, node_key)
    with ProgressLine(quiet=as_json) as line:
        found = builder.build(
            builder.read_definition(definition),
            output,
            Repository(keys),
            cache_folder(cache),
            datetime.datetime.now(datetime.UTC),
            line.update,
        )
        thinned = thinning.thinned(output, receipt, [cache_folder(cache), *(base or [])], line)
    text = (
        f"built {found.name} {found.version} in {found.folder}: "
        f"{', '.join(found.models)}, {format_bytes(found.size)}{thinned.text}"
    )
    data = {"name": found.name, "version": found.version, "folder": str(found.folder)}
    sizes = {"models": found.models, "bytes": found.size, **thinned.data}
    show({**data, **sizes}, text, as_json=as_json)


def import_(
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    with ProgressLine(quiet=as_json) as line:
        found = _import(folder.absolute(), state_dir, line)
    added = ", ".join(found["added"]) or "nothing new"
    copied = format_bytes(found["copied_bytes"])
    text = f"imported {found['name']} {found['version']}: {added}; {copied} copied"
    show(found, text, as_json=as_json)


def _import(folder: Path, state: Path, line: ProgressLine) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    with local_api(state) as node:
        for answer in node.objects("POST", "/v1/import", {"path": str(folder)}):
            if "progress" in answer:
                line.update(*answer["progress"].values())
    return dict(answer["imported"])


def cache_folder(given: Path | None) -> Path:
    """Return where downloads are kept: the folder given, or the user's usual one."""
    if given is not None:
        return given
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edge-ai-appliance"
