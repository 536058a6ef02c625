"""How a daemon begins and ends: loops side by side until a signal."""

import asyncio
import ipaddress
import signal
from collections.abc import Coroutine
from typing import Any


class Ending:
    """Whether, and how, the process was told to end. Made on the loop; takes over the signals."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.engines_too = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.asked.set)

    def ask(self, *, engines_too: bool) -> None:
        """End the process, and with it the engines if that is wanted."""
        self.engines_too = engines_too
        self.asked.set()


async def run_until(asked: asyncio.Event, *loops: Coroutine[Any, Any, None]) -> None:
    """Run loops side by side until asked to end, or until one of them fails for good."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(loop) for loop in loops]
    end: asyncio.Future[Any] = asyncio.ensure_future(asked.wait())
    try:
        while not end.done():
            done, _ = await asyncio.wait({end, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks[:]:
                if task in done:
                    task.result()
                    tasks.remove(task)
    finally:
        for task in (end, *tasks):
            task.cancel()
        await asyncio.gather(end, *tasks, return_exceptions=True)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
