"""Where the processes of one node meet, below its state folder."""

from pathlib import Path

CONTROL_SOCKET = Path("run", "control.sock")
ROUTES = Path("run", "routes.json")
GATEWAY_ADDRESS = Path("run", "gateway.json")
GATEWAY_LOCK = Path("run", "gateway.lock")
SPOOL = Path("spool")
DEMAND = SPOOL / "demand"
SETTINGS = Path("settings.toml")
DEFAULT_STATE = Path("/var/lib/appliance")
DEFAULT_HUB_STATE = Path("/var/lib/appliance-hub")
