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

from appliance import __version__
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
class PodProbe:
    """A question that a cluster's node asks an engine, every ``period_s``.

    ``failures`` in a row count as an answer.
    """

    path: str
    period_s: int
    timeout_s: int
    failures: int


@dataclass(frozen=True, slots=True)
class Network:
    """The form of an engine that runs in a container and listens on TCP.

    ``images`` are those that this project builds, by accelerator; ``{version}`` is ours.
    ``upstream`` are others' that take the same arguments: nothing says by which digest, so that the
    settings must name one. ``scratch_bytes`` is the memory that it may fill at ``/tmp``; 0: none.
    """

    port: int
    images: Mapping[str, str]
    upstream: Mapping[str, str]
    listen: tuple[str, ...]
    accelerated: tuple[str, ...]
    startup: PodProbe
    readiness: PodProbe
    liveness: PodProbe
    scratch_bytes: int = 0

    def image(self, accelerator: str) -> str:
        """Return the image for ``cpu``, ``cuda``, ``rocm`` or ``vulkan``.

        Raises:
            EngineError: this project builds none.
        """
        if found := self.images.get(accelerator):
            return found.format(version=__version__)
        known = self.upstream.get(accelerator)
        raise EngineError(
            f"no engine image for {accelerator} is built here",
            hint=f"set kubernetes.engine_image to {known}@sha256:... of your choice"
            if known
            else f"the images that there are: {', '.join(self.images)}",
        )

    def is_ours(self, image: str) -> bool:
        """Whether an image is one of those that this project builds, in whichever registry."""
        title = _title(image)
        return any(title == _title(ours) for ours in self.images.values())


def _title(image: str) -> str:
    """Return an image's name without registry, folders, tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One runtime: how it runs as a process, and, with ``network``, in a container."""

    name: str
    formats: tuple[str, ...]
    launchers: tuple[Launcher, ...]
    arguments: tuple[tuple[str, ...], ...]
    capabilities: Mapping[str, tuple[str, ...]]
    ready: Probe
    busy: Busy | None
    network: Network | None = None

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
        """Return the arguments for one replica that listens on a Unix socket."""
        values = {"weights": weights, "socket": socket, **_values(replica, threads)}
        filled = [part.format_map(values) for group in self.arguments for part in group]
        return filled + self._for_capabilities(replica)

    def network_arguments(
        self, replica: Replica, weights: str, host: str, threads: int
    ) -> list[str]:
        """Return the arguments for one replica that listens on TCP."""
        network = self.in_network()
        values = {"weights": weights, "host": host, "port": str(network.port)}
        values |= _values(replica, threads)
        groups = [g for g in self.arguments if not any("{socket}" in part for part in g)]
        groups.append(network.listen)
        if replica.gpus or replica.mig:
            groups.append(network.accelerated)
        filled = [part.format_map(values) for group in groups for part in group]
        return filled + self._for_capabilities(replica)

    def in_network(self) -> Network:
        """Return how it runs in a container.

        Raises:
            EngineError: it cannot.
        """
        if self.network is None:
            raise EngineError(f"{self.name} engines cannot run in a cluster")
        return self.network

    def _for_capabilities(self, replica: Replica) -> list[str]:
        return [a for c in replica.variant.capabilities for a in self.capabilities.get(c, ())]


def _values(replica: Replica, threads: int) -> dict[str, str]:
    return {
        "alias": replica.deployment,
        "context": str(replica.context * replica.slots),
        "slots": str(replica.slots),
        "threads": str(threads),
    }


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
        network=None if (network := data.get("network")) is None else _network(network),
    )


def _network(data: dict[str, Any]) -> Network:
    probes = {kind: PodProbe(**data[kind]) for kind in ("startup", "readiness", "liveness")}
    words = {name: tuple(data.get(name, ())) for name in ("listen", "accelerated")}
    return Network(**{"upstream": {}, **data, **words, **probes})
