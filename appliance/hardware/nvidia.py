"""NVIDIA GPUs as NVML describes them.

No driver is a normal answer. A driver that will not say something is not zero of it: what a call
fails to tell stays ``None``, and so do all GPUs when the driver fails altogether.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from appliance.core.machine import Gpu, GpuSurvey, MemoryKind

T = TypeVar("T")


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
