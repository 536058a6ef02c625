"""Whose process is this? As far as engines go that run here as processes."""

from pathlib import Path

from appliance.planner.fence import Owner
from appliance.runtime import record
from appliance.runtime.keeper import group_name


def owners(state: Path) -> list[Owner]:
    """Return how the processes of each engine that runs now are told; reads their records."""
    return [
        Owner(
            found.replica.id,
            found.process.pid,
            group_name(state, record.paths(state, found.replica.id).folder),
        )
        for found in record.running(state)
    ]
