"""The hub."""

import datetime
import logging
import sys
from pathlib import Path

from appliance.hub import identity
from appliance.hub.api import HubApi
from appliance.hub.authority import Standing, hub_tls
from appliance.hub.commands import CommandDesk
from appliance.hub.enrolment import Enrolment, Policy
from appliance.hub.migrations import migrations
from appliance.hub.service import HubService
from appliance.kit import asgi
from appliance.kit.clock import SystemClock
from appliance.kit.commit import GroupCommit
from appliance.kit.files import locked
from appliance.settings import HubSettings
from appliance.sync.broker import BrokerAddress, Tls
from appliance.wiring.daemon import Ending, is_loopback, run_until

log = logging.getLogger(__name__)
_SWITCH_S = 0.0005
"""How long a thread that works may keep others waiting; SQLite's asks after each statement."""


async def run_hub(state: Path, settings: HubSettings) -> None:
    """Run a hub until it is told to end.

    Raises:
        NotFoundError: no hub was made there.
        LockedError, AddressBusyError: another runs there, or listens there.
        UsageError: the broker's address is not one.
    """
    sys.setswitchinterval(_SWITCH_S)
    me, clock = identity.load(state), SystemClock()
    standing = Standing(state, me.org, clock)

    def tls() -> Tls:
        authority = standing()
        return Tls(*hub_tls(state, authority, clock.utc()), (authority.pem,))

    broker = BrokerAddress.parse(settings.broker, tls=tls)
    with locked(state / "lock", what=f"the hub in {state}"):
        socket = asgi.listen_tcp(settings.host, settings.port)
        db = GroupCommit(state / "hub.db", migrations)
        try:
            service = HubService(me, db, broker, clock)
            policy = Policy(_days(settings.certificate_days), _days(settings.renew_expired_days))
            enrolment = Enrolment(me.org, state, standing, db, clock, policy)
            enrolment.write_crl()
            enrolment.on_gone = service.forget
            service.add("request", enrolment)
            loopback = is_loopback(settings.host)
            log.info("listening on %s port %d", settings.host, socket.getsockname()[1])
            commands = CommandDesk(me, db, clock)
            service.add("outcome", commands)
            api = HubApi(
                db, service, clock, me.token, settings.heartbeat_s, loopback, enrolment, commands
            )
            await run_until(Ending().asked, service.run(), asgi.serve(api.app(), socket))
        finally:
            db.close()


def _days(count: float) -> datetime.timedelta:
    """Return so many days; a hundred years is as good as for ever."""
    return datetime.timedelta(days=min(count, 36_500))
