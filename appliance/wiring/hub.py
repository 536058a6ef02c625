"""The hub."""

import logging
from pathlib import Path

from appliance.hub import identity
from appliance.hub.api import HubApi
from appliance.hub.commands import CommandDesk
from appliance.hub.migrations import migrations
from appliance.hub.service import HubService
from appliance.kit import asgi
from appliance.kit.clock import SystemClock
from appliance.kit.commit import GroupCommit
from appliance.kit.files import locked
from appliance.settings import HubSettings
from appliance.sync.mqtt import BrokerAddress
from appliance.wiring.daemon import Ending, is_loopback, run_until

log = logging.getLogger(__name__)


async def run_hub(state: Path, settings: HubSettings) -> None:
    """Run a hub until it is told to end.

    Raises:
        NotFoundError: no hub was made there.
        LockedError, AddressBusyError: another runs there, or listens there.
        UsageError: the broker's address is not one.
    """
    me = identity.load(state)
    broker = BrokerAddress.parse(settings.broker)
    with locked(state / "lock", what=f"the hub in {state}"):
        socket = asgi.listen_tcp(settings.host, settings.port)
        db = GroupCommit(state / "hub.db", migrations)
        try:
            clock = SystemClock()
            service = HubService(me, db, broker, clock)
            loopback = is_loopback(settings.host)
            log.info("listening on %s port %d", settings.host, socket.getsockname()[1])
            commands = CommandDesk(me, db, clock)
            service.add("outcome", commands)
            api = HubApi(db, service, clock, me.token, settings.heartbeat_s, loopback, commands)
            await run_until(Ending().asked, service.run(), asgi.serve(api.app(), socket))
        finally:
            db.close()
