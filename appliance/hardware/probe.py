"""One reading of the machine."""

from appliance.core.machine import MachineFacts
from appliance.hardware import host, nvidia


def machine() -> MachineFacts:
    """Return what this machine has; takes milliseconds, up to seconds where a driver is slow."""
    found = host.read_host()
    return MachineFacts(
        cpu_model=found.cpu_model,
        cpus=found.cpus,
        memory_bytes=found.memory_bytes,
        memory_available_bytes=found.memory_available_bytes,
        gpus=nvidia.survey(),
    )
