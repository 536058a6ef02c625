"""NVIDIA GPUs as NVML describes them, and what it says of their health.

No driver is a normal answer. A driver that will not say something is not zero of it: what a call
fails to tell stays ``None``, and so do all GPUs when the driver fails altogether. Nor is it
"healthy": a driver without the calls for it (an old one, a damaged one) leaves that not known.
"""

import contextlib
import ctypes
import logging
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from appliance.core.machine import Gpu, GpuHealth, GpuLoad, GpuSeen, GpuSurvey, MemoryKind
from appliance.core.plain import plain
from appliance.errors import ApplianceError, NotFoundError

log = logging.getLogger(__name__)
T = TypeVar("T")

_WAIT_MS = 1000
_AFTER_TROUBLE_S = 5.0
_RESET_S = 120.0


def survey() -> GpuSurvey:
    """Ask NVML. Never raises: what goes wrong is part of the answer."""
    import pynvml  # noqa: PLC0415 - 6 MiB that only a look at the hardware needs

    try:
        pynvml.nvmlInit()
    except (
        pynvml.NVMLError_LibraryNotFound,
        pynvml.NVMLError_DriverNotLoaded,
    ):
        return GpuSurvey((), "no NVIDIA driver on this machine")
    except pynvml.NVMLError as error:
        return GpuSurvey(None, f"the NVIDIA driver fails: {error}")
    try:
        count = pynvml.nvmlDeviceGetCount()
        found = tuple(_gpu(pynvml, index) for index in range(count))
        return GpuSurvey(found, f"NVIDIA driver {_said(pynvml, pynvml.nvmlSystemGetDriverVersion)}")
    except pynvml.NVMLError as error:
        return GpuSurvey(None, f"the NVIDIA driver fails: {error}")
    finally:
        _said(pynvml, pynvml.nvmlShutdown)


def health() -> GpuHealth:
    """Ask NVML which GPUs are there and which are lost. Never raises."""
    try:
        with _opened() as nvml:
            count = nvml.nvmlDeviceGetCount()
            found = tuple(_seen(nvml, index) for index in range(count))
            return GpuHealth(found, f"the NVIDIA driver sees {count}")
    except ApplianceError as error:
        return GpuHealth(None, error.what)


def loads() -> tuple[GpuLoad, ...]:
    """Return what each GPU that answers does now. Never raises; the driver is let go of at once."""
    with contextlib.suppress(ApplianceError), _opened() as nvml:
        return tuple(_load(nvml, handle, uuid) for handle, uuid in _handles(nvml))
    return ()


def processes() -> dict[str, frozenset[int] | None]:
    """Return the pids that compute on each GPU, by UUID; None: not known. Never raises."""
    found: dict[str, frozenset[int] | None] = {}
    with contextlib.suppress(ApplianceError), _opened() as nvml:
        for handle, uuid in _handles(nvml):
            found[uuid] = _running(nvml, handle)
    return found


def reset(uuid: str) -> None:
    """Reset a GPU; takes seconds, up to two minutes. Nothing may use it.

    Raises:
        NotFoundError: ``nvidia-smi`` is not installed.
        ApplianceError: it could not; the text is what it said.
    """
    try:
        done = subprocess.run(
            ["nvidia-smi", "--gpu-reset", "-i", uuid],
            capture_output=True, text=True, errors="replace", timeout=_RESET_S, check=False,
        )  # fmt: skip
    except OSError as error:
        raise NotFoundError(f"nvidia-smi cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ApplianceError(f"nvidia-smi did not end within {_RESET_S:.0f} s") from error
    if done.returncode:
        said = plain(" ".join((done.stdout + done.stderr).split()), 400)
        raise ApplianceError(
            f"nvidia-smi could not reset {uuid}: {said}",
            hint="whatever holds the GPU must end: engines, nvidia-persistenced, device plugins",
        )


class XidWatch:
    """Hears of XID errors, on a thread of its own.

    ``watched`` are the GPUs of which it would hear, by UUID; the health of all others is not known
    to that extent. ``note`` says in words how it stands.
    """

    def __init__(self, tell: Callable[[str, int], None], trouble: Callable[[], None]) -> None:
        """``tell`` gets a UUID and an XID, ``trouble`` asks for a look; both on our thread."""
        self.watched: frozenset[str] = frozenset()
        self.note = "XID errors are not watched"
        self._tell = tell
        self._trouble = trouble
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to wait; one that waits already goes on."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-xid", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and let go of the driver: a GPU that somebody holds cannot be reset."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(2 * _WAIT_MS / 1000 + 1)
        self._thread = None

    def _run(self) -> None:
        try:
            with _opened() as nvml, _event_set(nvml) as events:
                uuids = self._register(nvml, events)
                while uuids and not self._ending.is_set():
                    self._wait(nvml, events, uuids)
        except ApplianceError as error:
            self.note = f"XID errors are not watched: {error.what}"
        finally:
            self.watched = frozenset()

    def _register(self, nvml: Any, events: Any) -> dict[int | None, str]:
        wanted = nvml.nvmlEventTypeXidCriticalError
        uuids: dict[int | None, str] = {}
        silent = []
        for handle, uuid in _handles(nvml):
            try:
                nvml.nvmlDeviceRegisterEvents(handle, wanted, events)
            except nvml.NVMLError as error:  # also one that never sends this event: Not Supported
                silent.append(f"{uuid} ({error})")
            else:
                uuids[_address(handle)] = uuid
        self.watched = frozenset(uuids.values())
        self.note = f"XID errors of {len(uuids)} GPUs are watched"
        if silent:
            self.note += f"; not of {', '.join(silent)}"
        return uuids

    def _wait(self, nvml: Any, events: Any, uuids: dict[int | None, str]) -> None:
        try:
            event = nvml.nvmlEventSetWait(events, _WAIT_MS)
        except nvml.NVMLError_Timeout:
            return
        except nvml.NVMLError as error:
            log.warning("waiting for XID errors: %s", error)
            self._trouble()
            self._ending.wait(_AFTER_TROUBLE_S)
            return
        if event.eventType == nvml.nvmlEventTypeXidCriticalError:
            known = uuids.get(_address(event.device))
            # An event of a GPU that cannot be told may be of any: NVIDIA's plugin says so too.
            for uuid in [known] if known is not None else uuids.values():
                self._tell(uuid, int(event.eventData))


@contextlib.contextmanager
def _opened() -> Iterator[Any]:
    """Open the driver for as long as the block takes.

    Raises:
        ApplianceError: there is none, or it fails in a call that the block does not expect to.
    """
    import pynvml  # noqa: PLC0415 - 6 MiB that only a look at the hardware needs

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded) as error:
        raise ApplianceError("no NVIDIA driver on this machine") from error
    except pynvml.NVMLError as error:
        raise ApplianceError(f"the NVIDIA driver fails: {error}") from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise ApplianceError(f"the NVIDIA driver fails: {error}") from error
    finally:
        _said(pynvml, pynvml.nvmlShutdown)


@contextlib.contextmanager
def _event_set(nvml: Any) -> Iterator[Any]:
    events = nvml.nvmlEventSetCreate()
    try:
        yield events
    finally:
        _said(nvml, lambda: nvml.nvmlEventSetFree(events))


def _handles(nvml: Any) -> Iterator[tuple[Any, str]]:
    """Yield the GPUs that answer and say which one they are."""
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = _said(nvml, partial(nvml.nvmlDeviceGetHandleByIndex, index))
        uuid = None if handle is None else _said(nvml, partial(nvml.nvmlDeviceGetUUID, handle))
        if uuid is not None:
            yield handle, _text(uuid)


def _seen(nvml: Any, index: int) -> GpuSeen:
    """Look at one GPU; a call that fails for another reason than a loss says nothing."""
    lost = False

    def said(call: Callable[[], T]) -> T | None:
        nonlocal lost
        try:
            return call()
        except nvml.NVMLError_GpuIsLost:
            lost = True
        except nvml.NVMLError:
            pass
        return None

    handle = said(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return GpuSeen(index, None, lost=lost)
    uuid = said(lambda: _text(nvml.nvmlDeviceGetUUID(handle)))
    name = said(lambda: _text(nvml.nvmlDeviceGetName(handle)))
    said(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))  # the driver remembers the names of the lost
    return GpuSeen(index, uuid, name, lost)


def _load(nvml: Any, handle: Any, uuid: str) -> GpuLoad:
    memory = _said(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    rates = _said(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    milliwatts = _said(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return GpuLoad(
        uuid,
        memory_used_bytes=None if memory is None else int(memory.used),
        busy_percent=None if rates is None else int(rates.gpu),
        celsius=_said(
            nvml, lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        watts=None if milliwatts is None else milliwatts / 1000,
    )


def _running(nvml: Any, handle: Any) -> frozenset[int] | None:
    """Return the pids on one GPU. The call without a version raises what is no NVMLError."""
    for call in (
        nvml.nvmlDeviceGetComputeRunningProcesses_v3,
        nvml.nvmlDeviceGetComputeRunningProcesses_v2,
    ):
        found = _said(nvml, partial(call, handle))
        if found is not None:
            return frozenset(int(process.pid) for process in found)
    return None


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = _said(nvml, lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:  # fell off the bus: it is there, and nothing is known of it
        return Gpu(f"index-{index}", None, None, None, None)
    memory = _said(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    uuid = _said(nvml, lambda: _text(nvml.nvmlDeviceGetUUID(handle)))
    return Gpu(
        uuid=uuid or f"index-{index}",
        name=_said(nvml, lambda: _text(nvml.nvmlDeviceGetName(handle))),
        memory_kind=None if memory is None else MemoryKind.DEDICATED,
        memory_bytes=None if memory is None else int(memory.total),
        memory_free_bytes=None if memory is None else int(memory.free),
    )


def _said(nvml: Any, call: Callable[[], T]) -> T | None:
    try:
        return call()
    except nvml.NVMLError:
        return None


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
