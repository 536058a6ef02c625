"""What engines said last, wherever they run."""

from collections.abc import Callable
from pathlib import Path

from appliance.errors import NotFoundError
from appliance.node.board import Board
from appliance.runtime import logfile, record

LogLines = Callable[[str, int], dict[str, list[str]]]
"""From a deployment and a number to the last lines that each of its engines said. Blocking."""


def engine_logs(board: Board, read: LogLines, name: str, lines: int) -> dict[str, list[str]]:
    """Return what the engines of a deployment that is in force said last.

    Raises:
        NotFoundError: no such deployment is.
    """
    if not any(s.name == name for s in board.world.statuses):
        raise NotFoundError(f"no deployment {name!r} is in force", hint="appliance get lists them")
    return read(name, lines)


def of_processes(state: Path, board: Board, name: str, lines: int) -> dict[str, list[str]]:
    """Return what a deployment's engines on this machine said last."""
    engines = [e.id for s in board.world.statuses if s.name == name for e in s.engines]
    return {n: logfile.tail(record.paths(state, n).log, lines) for n in engines or [f"{name}-0"]}
