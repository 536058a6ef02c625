"""Engine profiles: data that teaches the appliance a runtime.

Profiles that are installed with the package are trusted as software.
"""

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from appliance.core.model import Replica
from appliance.errors import EngineError


@dataclass(frozen=True, slots=True)
class Launcher:
    """One way to run an engine: a program, or a module of ours that needs a package."""

    name: str
    binary: str | None = None
    setting: str | None = None
    module: str | None = None
    requires: str | None = None

    def program(self, settings: Mapping[str, str]) -> list[str] | None:
        """Return the command that runs it here, or None when it is not installed."""
        if self.module is not None:
            found = importlib.util.find_spec(self.requires or self.module)
            return None if found is None else [sys.executable, "-m", self.module]
        wanted = settings.get(self.setting) if self.setting is not None else self.binary
        path = shutil.which(wanted) if wanted else None
        return None if path is None else [path]


@dataclass(frozen=True, slots=True)
class Probe:
    """How an engine says that it is ready, and how long it may take to say so."""

    path: str
    status: int
    start_s: float


@dataclass(frozen=True, slots=True)
class Busy:
    """Where an engine says how many requests it works on: a path and Prometheus names."""

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One runtime."""

    name: str
    formats: tuple[str, ...]
    launchers: tuple[Launcher, ...]
    arguments: tuple[tuple[str, ...], ...]
    capabilities: Mapping[str, tuple[str, ...]]
    ready: Probe
    busy: Busy | None

    def launcher(self, settings: Mapping[str, str]) -> tuple[Launcher, list[str]]:
        """Return the first launcher that is installed, and its command.

        Raises:
            EngineError: none is, or the one that the settings name is not there.
        """
        for launcher in self.launchers:
            command = launcher.program(settings)
            if command is not None:
                return launcher, command
            named = settings.get(launcher.setting or "")
            if named:
                raise EngineError(
                    f"the settings name {named} as {launcher.setting}, and it cannot be executed",
                    hint=f"correct engine.{launcher.setting}, or remove it from the settings",
                )
        tried = ", ".join(launcher.name for launcher in self.launchers)
        raise EngineError(
            f"no {self.name} engine is installed (looked for {tried})",
            hint="pip install 'edge-ai-appliance[engine]', or set engine.llama_server in settings",
        )

    def command_arguments(
        self, replica: Replica, weights: str, socket: str, threads: int
    ) -> list[str]:
        """Return the arguments for one replica."""
        values = {
            "weights": weights,
            "socket": socket,
            "alias": replica.deployment,
            "context": str(replica.context * replica.slots),
            "slots": str(replica.slots),
            "threads": str(threads),
        }
        filled = [part.format_map(values) for group in self.arguments for part in group]
        for capability in replica.variant.capabilities:
            filled += self.capabilities.get(capability, ())
        return filled


@cache
def profiles() -> Mapping[str, EngineProfile]:
    """Return the profiles that are installed with the package, by name."""
    folder = resources.files("appliance.runtime") / "engines"
    found = [
        parse(yaml.safe_load(item.read_text()))
        for item in folder.iterdir()
        if item.name.endswith(".yaml")
    ]
    return {profile.name: profile for profile in found}


def parse(data: dict[str, Any]) -> EngineProfile:
    """Return the profile in plain data; a field too many or too few is a TypeError of ours."""
    busy = data.get("busy")
    return EngineProfile(
        name=data["name"],
        formats=tuple(data["formats"]),
        launchers=tuple(Launcher(**launcher) for launcher in data["launchers"]),
        arguments=tuple(tuple(group) for group in data["arguments"]),
        capabilities={k: tuple(v) for k, v in data.get("capabilities", {}).items()},
        ready=Probe(**data["ready"]),
        busy=None if busy is None else Busy(busy["path"], tuple(busy["names"])),
    )
