"""hub ca, broker-cert, token, enrol, revoke, replace: who belongs to the fleet."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.bundle.media import requests
from appliance.cli.common import DEFAULT_HUB_STATE, AsJson, HubStateDir, checked, show
from appliance.core import ids, quantity, wire
from appliance.core.ids import node_id
from appliance.errors import (
    ApplianceError,
    ExpiredError,
    NotFoundError,
    ScopeError,
    UsageError,
)
from appliance.hub import identity
from appliance.kit.files import make_folder, write_durably
from appliance.kit.http import HttpClient

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="APPLIANCE_HUB_URL", help="The hub; else as in its settings."),
]
Node = Annotated[str, typer.Argument(help="The node's id.", callback=checked(ids.node_id))]
Replace = Annotated[
    bool, typer.Option("--replace", help="It takes the name over: the old key is revoked.")
]
OpenHub = Callable[[Path, str | None], HttpClient]
Medium = Annotated[Path, typer.Argument(help="The stick's folder, such as /media/stick.")]


def register(group: typer.Typer, hub: OpenHub) -> None:
    """Add the commands to the hub's group.

    Args:
        group: The hub's.
        hub: Returns a client of the hub in a state folder, or at a URL.
    """
    commands = _Commands(hub)
    group.command("ca", help="Print the hub's certificate authority, and its hash.")(ca)
    group.command("broker-cert", help="Make what a broker needs to speak TLS.")(broker_cert)
    group.command("token", help="Make a one-time token that enrols one node.")(commands.token)
    group.command("revoke", help="Accept nothing of a node any more.")(commands.revoke)
    group.command("replace", help="Give a node's name to another machine.")(commands.replace)
    enrol = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    enrol.command("import", help="Answer the requests on a stick; new nodes need your yes.")(
        commands.receive
    )
    group.add_typer(enrol, name="enrol", help="Nodes that ask for a certificate on a stick.")


def ca(
    new: Annotated[
        bool, typer.Option("--new", help="Make another: the old one's key was stolen or lost.")
    ] = False,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    found = _authority(state_dir, new=new)
    text = f"{found.pem}hash: {found.hash}"
    if new:
        text += (
            "\n  a hub that runs issues with it from now on; tokens that were not used are void"
            "\n  next: keys name-ca with this one alone, and a bundle for the nodes;"
            "\n  then hub broker-cert for each broker, and start it again"
        )
    show({"pem": found.pem, "hash": found.hash}, text, as_json=as_json)


def broker_cert(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    host: Annotated[
        list[str], typer.Option("--host", help="A name or address of it; may be repeated.")
    ],
    bridge: Annotated[
        str, typer.Option(help="Also join it to the fleet's broker, as this site: a-z, 0-9 and -.")
    ] = "",
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    from appliance.hub.authority import current_crl, server_names  # noqa: PLC0415 - others do
    from appliance.trust.certificates import FileTlsKey  # noqa: PLC0415 - without

    server_names(host)
    joined = f"_site-{checked(ids.node_id)(bridge)}" if bridge else ""
    authority, now = _authority(state_dir), _now()
    revoked = current_crl(state_dir, authority, now)
    make_folder(folder)

    def key(name: str) -> FileTlsKey:
        path = folder / name
        return FileTlsKey.open(path) if path.exists() else FileTlsKey.create(path)

    chain = authority.issue_server(host, key("broker-key.pem"), now)
    files = {
        "broker.pem": chain.pem,
        "hub-ca.pem": authority.pem.encode(),
        "revoked.pem": revoked,
    }
    if joined:
        files["site.pem"] = authority.issue_bridge(joined, key("site-key.pem"), now).pem
    for name, data in files.items():
        write_durably(folder / name, data)
    names = sorted([*files, "broker-key.pem", *(["site-key.pem"] if joined else [])])
    expires = chain.expires.date().isoformat()
    text = f"{folder} holds {', '.join(names)}, good until {expires}"
    show({"folder": str(folder), "files": names, "expires": expires}, text, as_json=as_json)


class _Commands:
    """Commands that ask a hub that runs."""

    def __init__(self, hub: OpenHub) -> None:
        self._hub = hub

    def token(  # noqa: PLR0913, PLR0917 - an argument an option
        self,
        node: Node,
        site: Annotated[str, typer.Option(help="Where the node is.")] = "",
        expires: Annotated[str, typer.Option(help="How long it is good, up to 7d.")] = "1h",
        replace: Replace = False,
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        body = {"site": site, "minutes": _minutes(expires), "replaces": replace}
        found = self._hub(state_dir, url).call("POST", f"{_path(node)}/token", body)
        text = (
            f"{found['token']}\n"
            f"  it makes one machine {node}, once, within {expires}\n"
            f"  next: there, appliance enrol --hub http://HOST:PORT --token TOKEN"
        )
        show(found, text, as_json=as_json)

    def revoke(
        self,
        node: Node,
        why: Annotated[str, typer.Option(help="The reason; it is kept.")],
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        found = self._hub(state_dir, url).call("POST", f"{_path(node)}/revoke", {"why": why})
        text = (
            f"{node} is revoked since {found['revoked_at']}: nothing of it is accepted here\n"
            f"  next: give {state_dir / 'crl.pem'} to the brokers, and have them read it again"
        )
        show(found, text, as_json=as_json)

    def replace(
        self,
        node: Node,
        key: Annotated[Path, typer.Option(help="The new machine's identity/node.json.")],
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        try:
            said = wire.loads(key.read_bytes(), what=str(key))
        except OSError as error:
            raise NotFoundError(f"cannot read {key}: {error.strerror}") from error
        if said.get("node") != node:
            raise UsageError(f"{key} is of {said.get('node')!r}, not of {node}")
        body = {"key": said.get("key")}
        found = self._hub(state_dir, url).call("POST", f"{_path(node)}/replace", body)
        begins = found["generation"]
        more = "" if begins is None else f"; it begins with generation {begins}"
        text = (
            f"{node} is the machine with the key {str(found['key'])[:16]}… now{more}\n"
            f"  the old key is revoked: give {state_dir / 'crl.pem'} to the brokers"
        )
        show(found, text, as_json=as_json)

    def receive(  # noqa: PLR0913, PLR0917 - an argument an option
        self,
        medium: Medium,
        fingerprint: Annotated[
            str, typer.Option("--fingerprint", help="What a new node's screen shows.")
        ] = "",
        site: Annotated[str, typer.Option(help="Where a new node is.")] = "",
        replace: Replace = False,
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        hub = self._hub(state_dir, url)
        words = {"fingerprint": fingerprint, "site": site, "replaces": replace}
        found = [
            _answered(hub, medium, carried, words, asks=not as_json)
            for carried in requests.read_requests(medium)
        ]
        if not found:
            raise NotFoundError(
                f"there are no requests on {medium}", hint="at a node: appliance enrol export STICK"
            )
        show({"nodes": found}, "\n".join(map(_text, found)), as_json=as_json)
        if refused := [each["refused"] for each in found if each["refused"]]:
            raise typer.Exit(refused[0]["exit"])


def _answered(
    hub: HttpClient, medium: Path, carried: requests.Request, words: dict[str, Any], *, asks: bool
) -> dict[str, Any]:
    """Have one request answered, and write the answer beside it; one refused stops no other."""
    made: dict[str, Any] = {"node": carried.node, "fingerprint": None, "refused": None}
    try:
        request = wire.loads(carried.data, what=str(carried.path))
        looked = hub.call("POST", "/api/v1/enrol/look", {"request": request})
        made["fingerprint"] = looked["fingerprint"]
        if node_id(str(looked["node"])) != carried.node:
            raise UsageError(f"{carried.path} is a request of {looked['node']}")
        answer = _chain(hub, request, looked, words, asks=asks)
        requests.write_answer(medium, carried.node, answer.encode())
    except ApplianceError as error:
        made["refused"] = error.to_wire()
    return made


def _chain(
    hub: HttpClient, request: dict[str, Any], looked: dict[str, Any], words: dict[str, Any],
    *, asks: bool,
) -> str:  # fmt: skip
    """Return the chain for a request: a known key needs nobody, a new one a person's yes."""
    compared = words["fingerprint"]
    if not compared:
        try:
            return str(hub.call("POST", "/api/v1/enrol", {"request": request})["chain"])
        except (ExpiredError, NotFoundError, ScopeError):  # what a person may decide
            if not asks:
                raise
        print(f"{looked['node']} asks for a certificate; its fingerprint is")
        print(f"  {looked['fingerprint']}")
        if not typer.confirm("Does the node's own screen show the same?", default=False):
            raise UsageError(f"{looked['node']} was not approved")
        compared = looked["fingerprint"]
    body = {"request": request, **words, "fingerprint": compared}
    return str(hub.call("POST", "/api/v1/enrol/approve", body)["chain"])


def _text(found: dict[str, Any]) -> str:
    refused = found["refused"]
    if refused is None:
        return (
            f"{found['node']}: the certificate lies on the stick\n"
            "  next: at the node, appliance enrol import STICK"
        )
    lines = [f"{found['node']}: REFUSED ({refused['code']}): {refused['what']}"]
    if refused["hint"]:
        lines.append(f"  try: {refused['hint']}")
    return "\n".join(lines)


def _authority(state: Path, *, new: bool = False) -> Any:
    from appliance.hub.authority import Authority, renew_authority  # noqa: PLC0415 - others do not

    org = identity.load(state).org
    return renew_authority(state, org, _now()) if new else Authority.of(state, org, _now())


def _minutes(text: str) -> int:
    try:
        return max(1, round(quantity.parse_duration(text) / 60))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _path(node: str) -> str:
    return f"/api/v1/nodes/{node}"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
