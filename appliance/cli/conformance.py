"""conformance: what of Kubernetes AI Conformance can be seen in a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, settings_path, show, table
from appliance.errors import NotFoundError

if TYPE_CHECKING:
    from appliance.kube.conformance.run import Report

Kubeconfig = Annotated[
    str,
    typer.Option(
        "--kubeconfig", envvar="KUBECONFIG",
        help="How to reach the cluster; in-cluster in a pod. Else what the node's settings say.",
    ),
]  # fmt: skip
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o",
        help="Write the answers here in the programme's form, evidence into a folder beside it.",
    ),
]  # fmt: skip


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the command."""
    app.command(name, help=help_text)(conformance)


def conformance(
    kubeconfig: Kubeconfig = "",
    output: Output = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    from appliance.kube.client import KubeApi  # noqa: PLC0415 - 38 MiB that only this needs
    from appliance.kube.conformance.run import run  # noqa: PLC0415 - likewise

    where = kubeconfig or _configured(state_dir)
    path = None if where == "in-cluster" else Path(where)
    found = run(KubeApi.connect(path, manager="edge-appliance-conformance"))
    if output is not None:
        found.write(output)
    show(found.to_wire(), _table(found, output), as_json=as_json)


def _configured(state: Path) -> str:
    from appliance.settings import load  # noqa: PLC0415 - only where no option says it

    found = load(settings_path(None, state)).kubernetes.kubeconfig
    if not found:
        raise NotFoundError(
            "nothing says which cluster to look at", hint="appliance conformance --kubeconfig FILE"
        )
    return found


def _table(found: "Report", output: Path | None) -> str:
    rows = [
        [line.id, line.level, str(found.answers[line.id].status), found.answers[line.id].notes]
        for line in found.checklist.requirements
    ]
    lines = [
        f"Kubernetes {found.server}, by the AI Conformance checklist of {found.checklist.name}",
        "",
        table(["ID", "LEVEL", "STATUS", "WHY"], rows),
    ]
    if found.release < found.checklist.release:
        lines += ["", "no checklist was ever made for this server's release; this is the oldest"]
    if output is not None:
        lines += ["", f"written to {output}; what stands in square brackets is for you to fill in"]
    return "\n".join(lines)
