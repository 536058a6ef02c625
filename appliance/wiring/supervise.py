"""The parent of a node's controller. It loads none of what the controller needs."""

from pathlib import Path

from appliance import __version__
from appliance.settings import UpgradeSettings
from appliance.software.shelf import Shelf
from appliance.software.supervisor import Patience, Supervisor
from appliance.wiring import places


def supervise(state: Path, settings_file: Path | None, settings: UpgradeSettings) -> None:
    """Keep the controller of a node up until told to end.

    Raises:
        LockedError, NoSpaceError, StateUnusableError: as ``Supervisor.run``.
    """
    state = state.absolute()
    arguments = ["node", "run", "--state-dir", str(state)]
    if settings_file is not None:
        arguments += ["--settings", str(settings_file.absolute())]
    patience = Patience(settings.gate_s, settings.hold_s, settings.stop_s)
    socket = state / places.CONTROL_SOCKET
    Supervisor(Shelf(state), arguments, socket, __version__, patience).run()
