"""The local API when no controller runs: served by the command itself, for as long as it needs it.

So a command has one road, whether a controller runs or not, and two commands at once meet in one
queue: the second finds the first's socket.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.errors import LockedError, NotFoundError, UsageError
from appliance.kit import asgi
from appliance.kit.clock import SystemClock
from appliance.kit.files import make_folder
from appliance.kit.http import not_permitted
from appliance.node.api.app import local_api
from appliance.node.api.services import LocalServices
from appliance.node.carry import Alone
from appliance.settings import NetworkSettings, load
from appliance.wiring import places
from appliance.wiring.core import NodeCore, open_node, services_of

_APPEARS_S = 10.0
"""How long another process that holds the node may take to make its socket."""


@contextlib.contextmanager
def served(state: Path) -> Iterator[Path]:
    """Yield the path of a socket that answers for the node in ``state``.

    Raises:
        NotFoundError: no node was made there.
        ForbiddenError: somebody holds the node, and we may not speak to them.
        LockedError: somebody holds the node and does not answer.
        NoSpaceError, StateUnusableError: as ``open_node``.
    """
    path = state / places.CONTROL_SOCKET
    ends = time.monotonic() + _APPEARS_S
    while not _answers(path):
        try:
            with open_node(state) as core, _serving(core, path):
                yield path
                return
        except LockedError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)
    yield path


def _answers(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        try:
            sock.connect(str(path))
        except PermissionError as error:
            raise not_permitted(path) from error
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _serving(core: NodeCore, path: Path) -> Iterator[None]:
    """Serve on a thread; what was begun ends before this does."""
    services = _services(core)
    make_folder(path.parent)
    sock = asgi.listen_unix(path, 0o660)
    loop = asyncio.new_event_loop()

    async def run() -> None:
        serving = asyncio.ensure_future(asgi.serve(local_api(services), sock))
        await ended.wait()
        while services.work:
            for task in services.fetching.waiting:
                task.cancel()
            await asyncio.wait(services.work, timeout=1)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    ended = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), name="local-api")
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        asgi.remove_socket(path)


def _services(core: NodeCore) -> LocalServices:
    async def unchanged() -> None:
        """Nobody serves, so nobody needs to look."""

    def no_log(name: str, _: int) -> dict[str, list[str]]:
        raise NotFoundError(f"no controller runs, so {name!r} has no engine")

    def cannot_stop(**_: Any) -> None:
        raise UsageError("no controller runs here")

    return services_of(
        core,
        _network(core),
        Alone(
            core.identity,
            core.ledger,
            core.trust,
            SystemClock(),
            {"time": core.answers.take_time, "cert": core.certificates.take},
        ),
        status=lambda: {"node": core.identity.node, "controller": False, "deployments": []},
        log_lines=no_log,
        changed=unchanged,
        stop=cannot_stop,
    )


def _network(core: NodeCore) -> NetworkSettings:
    path = core.state / places.SETTINGS
    return load(path if path.exists() else None).network
