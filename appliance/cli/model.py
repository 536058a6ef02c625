"""model add, list, rm, presets: bring your own, and what to begin with."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show, table
from appliance.cli.progress import ProgressLine
from appliance.core.quantity import format_bytes

Version = Annotated[str | None, typer.Option(help="Its version.")]
VariantName = Annotated[str | None, typer.Option(help="Its variant, such as Q4_K_M.")]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("add", help="Bring a model of your own, signed by this site's key.")(add)
    group.command("list", help="List the catalogue: what bundles and this site brought.")(list_)
    group.command("rm", help="Take back a model that this site brought.")(remove)
    group.command("presets", help="List bundle definitions of open models to begin with.")(presets)
    app.add_typer(group, name=name, help=help_text)


def add(  # noqa: PLR0913, PLR0917 - an argument an option
    source: Annotated[
        Path, typer.Argument(help="A GGUF file, a folder with a model's files, or an OCI layout.")
    ],
    name: Annotated[str, typer.Option(help="The name that deployments use.")],
    version: Version = None,
    variant: VariantName = None,
    licence: Annotated[str | None, typer.Option(help="An SPDX licence expression.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Which model of an OCI layout that holds several.")
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="It makes embeddings; it does not chat.")
    ] = False,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    body = {"name": name, "version": version, "variant": variant, "licence": licence}
    body |= {"reference": reference, "path": str(source.absolute())}
    with ProgressLine(quiet=as_json) as line:
        found = _add({**body, "embeddings": embeddings}, state_dir, line)
    size = format_bytes(found["weights_bytes"])
    text = f"added {found['model']} {found['version']} {found['name']}, {size}, signed by this site"
    show(found, text, as_json=as_json)


def _add(body: dict[str, Any], state: Path, line: ProgressLine) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    with local_api(state) as node:
        for answer in node.objects("POST", "/v1/models/local", body):
            if "progress" in answer:
                line.update(*answer["progress"].values())
    return dict(answer["added"])


def list_(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/models")
    rows = [
        [v["model"], v["version"], v["name"], v["publisher"], format_bytes(v["weights_bytes"])]
        for v in found["models"]
    ]
    head = ["MODEL", "VERSION", "VARIANT", "PUBLISHER", "SIZE"]
    empty = "the catalogue is empty; appliance model add FILE --name NAME brings a model"
    show(found, table(head, rows) if rows else empty, as_json=as_json)


def remove(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Version = None,
    variant: VariantName = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    asked = {"version": version, "variant": variant}
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    with local_api(state_dir) as node:
        found = node.call("DELETE", f"/v1/models/local/{quote(name, safe='')}?{query}")
    gone = ", ".join(f"{v['model']} {v['version']} {v['name']}" for v in found["removed"])
    show(found, f"removed {gone}; its bytes go when the store is cleaned", as_json=as_json)


def presets(
    folder: Annotated[
        Path | None, typer.Option(help="Where the definitions are; else those of this release.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    from appliance.bundle.make import presets as library  # noqa: PLC0415 - only this command needs it

    found = library.presets(folder)
    rows = [
        [p.size_class, m.name, m.licence, p.status, str(p.path)] for p in found for m in p.models
    ]
    head = ["FOR", "MODEL", "LICENCE", "STATUS", "DEFINITION"]
    text = table(head, rows) + "\n\n" + library.NEXT_STEPS
    show({"presets": [preset.to_wire() for preset in found]}, text, as_json=as_json)
