"""The gateway of one node."""

import json
import logging
import os
from pathlib import Path

from appliance.errors import UsageError
from appliance.gateway.app import Gateway
from appliance.gateway.routes import RouteFile
from appliance.gateway.spool import UsageSpool
from appliance.kit import asgi
from appliance.kit.clock import SystemClock
from appliance.kit.files import locked, make_folder, replace_quickly
from appliance.settings import GatewaySettings
from appliance.wiring import places
from appliance.wiring.daemon import Ending, is_loopback, run_until

log = logging.getLogger(__name__)


async def run_gateway(state: Path, settings: GatewaySettings) -> None:
    """Run the gateway of a node until it is told to end.

    Raises:
        UsageError: it would be open to others without a key.
        AddressBusyError: another program listens there.
        LockedError: this node has a gateway already.
    """
    make_folder(state / places.GATEWAY_LOCK.parent)
    with locked(state / places.GATEWAY_LOCK, what=f"the gateway of the node in {state}"):
        await _run(state, settings)


async def _run(state: Path, settings: GatewaySettings) -> None:
    routes = RouteFile(state / places.ROUTES)
    loopback = is_loopback(settings.host)
    if not loopback and not routes.current().keys:
        raise UsageError(
            f"the gateway would be open to everybody who reaches {settings.host}",
            hint="make a key first: appliance gateway key create NAME, or listen on 127.0.0.1",
        )
    socket = asgi.listen_tcp(settings.host, settings.port)
    make_folder(state / places.SPOOL)
    usage = UsageSpool(state / places.SPOOL)
    address = {"host": settings.host, "port": socket.getsockname()[1], "pid": os.getpid()}
    replace_quickly(state / places.GATEWAY_ADDRESS, json.dumps(address).encode())
    log.info("listening on %s port %d", address["host"], address["port"])
    gateway = Gateway(routes, usage, SystemClock(), settings, loopback=loopback)
    try:
        await run_until(Ending().asked, asgi.serve(gateway, socket))
    finally:
        usage.close()
        (state / places.GATEWAY_ADDRESS).unlink(missing_ok=True)
