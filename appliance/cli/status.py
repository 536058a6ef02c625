"""status, gpus, models: how this node and its machine are."""

from dataclasses import asdict
from typing import Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, controller, show, table
from appliance.cli.deployments import describe
from appliance.cli.receipts import brief
from appliance.core.quantity import format_bytes


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add one of this module's commands."""
    commands: dict[str, Any] = {"status": status, "gpus": gpus, "models": models}
    app.command(name, help=help_text)(commands[name])


def status(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    found = controller(state_dir).call("GET", "/v1/status")
    show(found, _status(found), as_json=as_json)


def gpus(as_json: AsJson = False) -> None:
    from appliance.hardware.probe import machine  # noqa: PLC0415 - only this command needs it

    found = asdict(machine())
    show(found, _machine(found), as_json=as_json)


def models(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    found = controller(state_dir).call("GET", "/v1/models")
    rows = [
        [v["model"], v["version"], v["name"], format_bytes(v["weights_bytes"]), v["licence"]]
        for v in found["models"]
    ]
    head = ["MODEL", "VERSION", "VARIANT", "SIZE", "LICENCE"]
    empty = "the catalogue is empty; appliance bundle import DIR brings models"
    show(found, table(head, rows) if rows else empty, as_json=as_json)


def _status(found: dict[str, Any]) -> str:
    link = found["link"]
    lines = [f"{found['node']}: {_verdict(found)}", ""]
    lines += [describe(d) for d in found["deployments"]]
    lines += [_engine(e) for e in found["engines"]]
    lines += ["", f"hub: {'connected' if link['connected'] else 'not connected: ' + link['why']}"]
    lines += cluster_lines(found.get("cluster"))
    if link["waits_for"]:
        lines.append(f"hub's word: {link['waits_for']}")
    if link["refused"]:
        lines.append(f"hub's word: REFUSED, {link['refused']}")
    lines += [
        f"  {name}: {s['written']} written, {s['acknowledged']} acknowledged by the hub"
        for name, s in found["streams"].items()
    ]
    audit = found["audit"]
    lines.append(f"for the shift book: audit record {audit['seq']}, {audit['hash'][:8]}")
    lines.append(f"time: {brief(found['time'])}")
    if not found["reserve"]:
        lines.append("disk: FULL, the reserve is in use; nothing new is begun, serving goes on")
    lines += [wanted_line(w) for w in found.get("wanted", [])]
    if full := found.get("full_streams"):
        more = "; no import and no command may start" if "audit" in full else ""
        lines.append(f"log: FULL, the hub has not acknowledged enough of {', '.join(full)}{more}")
    if (pressure := found.get("disk_pressure")) and pressure["likely"]:
        lines.append(f"disk: {pressure['message']}")
    fenced = found.get("fenced_gpus", {})
    lines += [f"GPU {uuid}: FENCED, {f['message']} (appliance gpu)" for uuid, f in fenced.items()]
    return "\n".join([*lines, "", _machine(found["machine"])])


def cluster_lines(cluster: dict[str, Any] | None) -> list[str]:
    """Return how the cluster is, for a person; nothing where there is none."""
    if cluster is None:
        return []
    if not cluster["reachable"]:
        why = f": {cluster['why']}" if cluster.get("why") else ""
        return [f"cluster: not reachable since {cluster['away_since']}{why}"]
    leads = "this node" if cluster["leads"] else cluster["leader"] or "nobody"
    lines = [
        f"cluster: reachable as {cluster['node']}, Kubernetes {cluster['server']}, "
        f"{cluster['deployments']} ModelDeployments; {leads} plans for it"
    ]
    return lines + [f"  {sentence}" for sentence in cluster["cannot"]]


def wanted_line(wanted: dict[str, Any]) -> str:
    """Return what is to be brought again, for a person."""
    models = ", ".join(wanted["models"])
    return (
        f"wanted again: {wanted['digest'][:19]}, {format_bytes(wanted['size'])}, "
        f"{wanted['state']}, of {models}"
    )


def _verdict(found: dict[str, Any]) -> str:
    asked = [d for d in found["deployments"] if d["replicas"]]
    asleep = len(found["deployments"]) - len(asked)
    ready = sum(
        any(c["type"] == "Ready" and c["status"] == "True" for c in d["conditions"]) for d in asked
    )
    if not found["deployments"]:
        return "nothing is asked of it"
    more = f"; {asleep} scaled to zero" if asleep else ""
    return f"{ready} of {len(asked)} deployments serve{more}"


def _engine(engine: dict[str, Any]) -> str:
    lines = [
        f"  {engine['id']}: {engine['message']}, {engine['launcher'] or 'no engine'}, "
        f"pid {engine['pid'] or 'none'}, "
        f"{format_bytes(engine['memory_bytes'])} resident, "
        f"limit by {engine['memory_limit'] or 'not known'}, {engine['restarts']} restarts",
    ]
    if engine["contained"]:
        lines.append(f"    contained: {', '.join(engine['contained'])}")
    lines += [f"    log: {line}" for line in engine["log_tail"]]
    if engine["missing"]:
        lines.append(f"    missing: {', '.join(engine['missing'])}")
    return "\n".join(lines)


def _machine(found: dict[str, Any]) -> str:
    survey = found["gpus"]
    cpus = "not known" if found["cpus"] is None else f"{found['cpus']:g}"
    lines = [
        f"processors: {cpus} ({found['cpu_model'] or 'model not known'})",
        f"memory: {format_bytes(found['memory_bytes'])}, "
        f"{format_bytes(found['memory_available_bytes'])} available",
    ]
    if survey["gpus"] is None:
        lines.append(f"GPUs: not known ({survey['note']})")
    elif not survey["gpus"]:
        lines.append(f"GPUs: none ({survey['note']})")
    else:
        lines += [
            f"GPU {g['uuid']}: {g['name'] or 'name not known'}, {format_bytes(g['memory_bytes'])}, "
            f"{format_bytes(g['memory_free_bytes'])} free"
            for g in survey["gpus"]
        ]
    return "\n".join(lines)
