"""The gateway of one node."""

import json
import os
from pathlib import Path

from appliance.errors import UsageError
from appliance.gateway.app import Gateway
from appliance.gateway.routes import RouteFile
from appliance.gateway.spool import UsageSpool
from appliance.kit import asgi
from appliance.kit.clock import SystemClock
from appliance.kit.files import make_folder, replace_quickly
from appliance.settings import GatewaySettings
from appliance.wiring import places
from appliance.wiring.daemon import Ending, is_loopback, run_until


async def run_gateway(state: Path, settings: GatewaySettings) -> None:
    """Run the gateway of a node until it is told to end.

    Raises:
        UsageError: it would be open to others without a key.
        AddressBusyError: another program listens there.
    """
    routes = RouteFile(state / places.ROUTES)
    loopback = is_loopback(settings.host)
    if not loopback and not routes.current().keys:
        raise UsageError(
            f"the gateway would be open to everybody who reaches {settings.host}",
            hint="make a key first: appliance gateway key create NAME, or listen on 127.0.0.1",
        )
    socket = asgi.listen_tcp(settings.host, settings.port)
    for folder in (places.SPOOL, places.GATEWAY_ADDRESS.parent):
        make_folder(state / folder)
    usage = UsageSpool(state / places.SPOOL)
    address = {"host": settings.host, "port": socket.getsockname()[1], "pid": os.getpid()}
    replace_quickly(state / places.GATEWAY_ADDRESS, json.dumps(address).encode())
    gateway = Gateway(routes, usage, SystemClock(), settings, loopback=loopback)
    try:
        await run_until(Ending().asked, asgi.serve(gateway, socket))
    finally:
        usage.close()
        (state / places.GATEWAY_ADDRESS).unlink(missing_ok=True)
