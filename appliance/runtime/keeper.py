"""Keeping one engine up: start it, wait for ready, watch it, start it again with backoff."""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica, Phase
from appliance.errors import ApplianceError
from appliance.kit.backoff import growing
from appliance.kit.files import make_folder, translated
from appliance.kit.proc import ProcessId, identify
from appliance.runtime import health, logfile, record
from appliance.runtime.cgroup import memory_group
from appliance.runtime.launch import ALREADY_RUNS, WEIGHTS_PATH, LaunchOrder
from appliance.runtime.profile import EngineProfile, profiles
from appliance.runtime.record import SOCKET_NAME, EngineRecord

log = logging.getLogger(__name__)

_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
_LOOK_BUSY_S = 0.3
_TAIL_LINES = 8


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How engines are run."""

    threads: int = 2
    launchers: Mapping[str, str] | None = None
    drain_s: float = 30.0
    grace_s: float = 5.0
    look_every_s: float = 2.0
    unhealthy_after: int = 5
    first_backoff_s: float = 0.5
    most_backoff_s: float = 60.0
    stable_after_s: float = 60.0
    visible_gpus: Callable[[], Sequence[str] | None] = lambda: None
    """The GPUs that an engine may use, by UUID; None: all there are."""


@dataclass(frozen=True, slots=True)
class KeeperContext:
    """What the keepers of one driver share.

    ``weights`` returns the file that a replica's engine opens; ``changed`` tells that an engine is
    seen otherwise than before.
    """

    state: Path
    settings: ProcessSettings
    weights: Callable[[Replica], Path]
    changed: Callable[[], None]


class _Ended(Exception):  # noqa: N818 - not a failure of ours: how a keeper hears of an end
    """The engine is not running any more; the text says why."""


class Keeper:
    """Keeps one replica up."""

    def __init__(
        self, replica: Replica, found: EngineRecord | None, uid: int | None, context: KeeperContext
    ) -> None:
        """``found`` is the record of an engine that runs already; ``uid`` its user, or None."""
        self.replica = replica
        self.uid = uid
        self.task: asyncio.Task[None] | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self._record = found
        self._context = context
        self._state = state = context.state
        self._settings = context.settings
        self._paths = record.paths(state, replica.id)
        self._profile = profiles()[replica.engine]
        self._stopping = asyncio.Event()
        self._seen = ObservedReplica(
            replica.id, replica.deployment, replica.revision, Phase.STARTING, message="starting"
        )
        self._group = memory_group(group_name(state, self._paths.folder))

    def stop(self) -> None:
        self._see(phase=Phase.STOPPING, message="stopping")
        self._stopping.set()

    async def adopt(self) -> None:
        """Look at an engine that runs already, so that its routes are never taken away."""
        if await health.is_ready(self._paths.socket, self._profile.ready):
            self._ready()

    def observe(self) -> ObservedReplica:
        if self._record is None or self._seen.phase is Phase.BACKOFF:
            return self._seen
        found = self._record
        return replace(
            self._seen,
            pid=found.process.pid,
            launcher=found.launcher,
            memory_bytes=found.process.resident_bytes(),
            memory_limit=found.memory_limit,
            contained=found.holds,
            missing=found.missing,
        )

    async def run(self) -> None:
        delays = growing(self._settings.first_backoff_s, self._settings.most_backoff_s)
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            try:
                await self._until_ended()
            except (_Ended, ApplianceError, OSError) as why:
                if loop.time() - began > self._settings.stable_after_s:
                    delays = growing(self._settings.first_backoff_s, self._settings.most_backoff_s)
                await self._back_off(next(delays), str(why))
        await self._end()

    async def _until_ended(self) -> None:
        if self._record is None:
            self._see(phase=Phase.STARTING, message="starting", endpoint=None, retry_in_s=None)
            self._launch()
        await self._until_ready()
        log.info("%s is ready", self.replica.id)
        self._ready()
        failures = 0
        while not await self._pause(self._settings.look_every_s):
            await self._look()
            if await health.is_ready(self._paths.socket, self._profile.ready):
                failures = 0
                continue
            failures += 1
            if failures >= self._settings.unhealthy_after:
                await self._kill()
                raise _Ended(f"did not answer its probe {failures} times in a row")

    def _ready(self) -> None:
        endpoint = str(self._paths.socket)
        self._see(phase=Phase.READY, message="ready", endpoint=endpoint, log_tail=(), failures=0)

    async def _until_ready(self) -> None:
        """Wait until the engine whose record this is answers, and not another at its socket."""
        deadline = asyncio.get_running_loop().time() + self._profile.ready.start_s
        while self._record is None or not await health.is_ready(
            self._paths.socket, self._profile.ready
        ):
            if await self._pause(0.05):
                raise _Ended("stopped while it started")
            await self._look()
            if asyncio.get_running_loop().time() > deadline:
                await self._kill()
                raise _Ended(f"was not ready within {self._profile.ready.start_s:.0f} s")

    def _launch(self) -> None:
        settings = self._settings
        launcher, command = installed_launcher(self._profile, settings)
        arguments = self._profile.command_arguments(
            self.replica, WEIGHTS_PATH, SOCKET_NAME, settings.threads
        )
        make_folder(self._paths.folder, mode=0o700)
        order = LaunchOrder(
            replica=self.replica.to_wire(),
            launcher=launcher,
            command=command,
            arguments=arguments,
            weights=str(self._context.weights(self.replica)),
            record=str(self._paths.record),
            folder=str(self._paths.folder),
            log=str(self._paths.log),
            group=group_name(self._state, self._paths.folder),
            uid=self.uid,
        )
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        visible = self._settings.visible_gpus()
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
        with translated(f"starting {self.replica.id}"), self._paths.log.open("ab") as early:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "appliance.runtime.launch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=early,
                start_new_session=True,
                env=environment,
            )
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(order.dump())
            self.child.stdin.close()

    async def _look(self) -> None:
        """Find out whether it still runs, take in its record, and keep its limits."""
        code = None if self.child is None else self.child.poll()
        if code is not None and code != ALREADY_RUNS:
            self.child = None
            self._record = None
            raise _Ended(self._why(code))
        if self._record is None:
            self._record = await self._find()
            if self._record is None and code == ALREADY_RUNS:
                raise _Ended("could not start: another engine held its record")
            return
        if not self._record.process.is_alive():
            self._record = None
            raise _Ended(self._why(None))
        logfile.cap(self._paths.log)
        await self._watch_memory(self._record)

    async def _find(self) -> EngineRecord | None:
        """Return the record of the engine that runs; end one that runs in another revision.

        A controller that died in the middle of a launch leaves such a one: it wrote its record when
        the next controller had already looked for what runs.
        """
        for found in record.running(self._state):
            if found.replica.id != self.replica.id:
                continue
            if found.replica.revision == self.replica.revision:
                self.uid = found.uid
                return found
            log.warning("ending %s, pid %d: another revision", found.replica.id, found.process.pid)
            found.process.signal(signal.SIGKILL)
            await asyncio.to_thread(found.process.wait, 10)
        return None

    async def _watch_memory(self, found: EngineRecord) -> None:
        used = found.process.resident_bytes()
        limit = self.replica.memory_limit_bytes
        if found.memory_limit == "watchdog" and used is not None and used > limit:
            await self._kill()
            raise _Ended(f"used {used >> 20} MiB, more than its limit of {limit >> 20} MiB")

    def _why(self, code: int | None) -> str:
        if code is None:
            how = "ended while nobody who could read its status watched"
        elif code < 0:
            known = {number.value: number.name for number in signal.Signals}
            how = f"was ended by {known.get(-code, f'signal {-code}')}"
            if code == -signal.SIGILL:
                how += ": this build of the engine is for another processor"
            elif code == -signal.SIGKILL and self._group is not None:
                how += f": killed, or out of its {self.replica.memory_limit_bytes >> 20} MiB"
        else:
            how = f"ended with status {code}"
        return how

    async def _back_off(self, delay: float, why: str) -> None:
        if self._stopping.is_set():
            return
        log.warning("%s %s; again in %.1f s", self.replica.id, why, delay)
        self._see(
            phase=Phase.BACKOFF,
            message=f"{self.replica.id} {why}",
            log_tail=tuple(logfile.tail(self._paths.log, _TAIL_LINES)),
            restarts=self._seen.restarts + 1,
            failures=self._seen.failures + 1,
            retry_in_s=delay,
            endpoint=None,
            pid=None,
        )
        await self._pause(delay)

    async def _end(self) -> None:
        if self._record is not None and self._record.process.is_alive():
            await self._drain()
            self._record.process.signal(signal.SIGTERM)
            if not await asyncio.to_thread(self._record.process.wait, self._settings.grace_s):
                await self._kill()
        elif self.child is not None and self.child.poll() is None:
            self.child.kill()
        if self.child is not None:
            await asyncio.to_thread(self.child.wait)
        await asyncio.to_thread(clean_up, self._state, self.replica.id)

    async def _drain(self) -> None:
        """Wait until running requests are answered; the routes have let go of the engine first."""
        if self._profile.busy is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                busy: int | None = 1
                while busy:
                    await asyncio.sleep(_LOOK_BUSY_S)
                    busy = await health.requests_in_progress(self._paths.socket, self._profile.busy)

    async def _kill(self) -> None:
        found = self._record.process if self._record is not None else None
        if found is None and self.child is not None:
            found = identify(self.child.pid)
        if found is not None:
            found.signal(signal.SIGKILL)
            await asyncio.to_thread(found.wait, 10)
        if self.child is not None:
            await asyncio.to_thread(self.child.wait)
        self.child = self._record = None

    async def _pause(self, seconds: float) -> bool:
        """Wait, at most until the replica is stopped or its process ends; return if stopped."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._stopping.wait())]
        watched = self._record.process if self._record is not None else None
        if watched is not None:
            waits.append(asyncio.ensure_future(_ended(watched)))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._stopping.is_set()

    def _see(self, **changes: object) -> None:
        if self._stopping.is_set():
            changes.pop("phase", None)
        self._seen = replace(self._seen, **changes)  # type: ignore[arg-type]
        self._context.changed()


async def _ended(process: ProcessId) -> None:
    """Return when the process has ended, without a thread and without polling."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        loop.add_reader(handle, ended.set)
        if process.is_alive():
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def installed_launcher(profile: EngineProfile, settings: ProcessSettings) -> tuple[str, list[str]]:
    """Return the name and command of what runs a profile's engines here.

    Raises:
        EngineError: nothing installed does.
    """
    launcher, command = profile.launcher(settings.launchers or {})
    return launcher.name, command


def group_name(state: Path, folder: Path) -> str:
    """Return an engine's cgroup's name; the mark keeps two nodes on one machine apart."""
    mark = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]
    return f"appliance-{mark}-{folder.name}"


def clean_up(state: Path, replica_id: str) -> None:
    """Remove what an ended engine leaves: its record, socket and cgroup."""
    found = record.paths(state, replica_id)
    found.record.unlink(missing_ok=True)
    shutil.rmtree(found.folder, ignore_errors=True)
    group = memory_group(group_name(state, found.folder))
    if group is not None:
        group.remove()
