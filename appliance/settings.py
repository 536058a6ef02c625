"""Settings as documented data: frozen groups, units in names, loaded once.

They are read from a TOML file, one table a group, and from the environment, where
``APPLIANCE_GATEWAY_PORT=9000`` sets ``port`` of ``gateway``. Loading touches nothing else.
"""

import math
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from appliance.errors import BadDocumentError, NotFoundError, StateUnusableError

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class NodeSettings:
    resync_s: float = 30.0
    """How often the node reconciles although nothing is known to have changed.

    It heals missed messages, so it bounds how long a node can stay wrong.
    """
    heartbeat_s: float = 30.0
    """How often the node reports to the hub; unheard for three of them it is stale there."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    threads: int = 2
    """CPU threads of one engine. More than the machine has makes every engine slower."""
    slots: int = 2
    """Requests that one engine works on at a time; each takes KV memory for a whole context."""
    llama_server: str = ""
    """A llama-server to run instead of the xllamacpp package: a path, or a name on PATH."""
    drain_s: float = 30.0
    """How long an engine that is stopped may finish what it works on."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    host: str = "127.0.0.1"
    """Where the gateway listens. Other than loopback it needs an API key first."""
    port: int = 8080
    hold_s: float = 120.0
    """How long a request waits for an engine that starts, before it is told to come again."""
    keep_alive_s: float = 15.0
    """A streamed request that waits gets a comment this often, so that nothing between hangs up.

    From the first one on it can no longer be refused by a status: an error is an event then.
    """
    most_body_bytes: int = 32 << 20
    """A larger request is refused before it fills the memory."""


@dataclass(frozen=True, slots=True)
class SyncSettings:
    broker: str = ""
    """The broker: ``mqtts://HOST:PORT``, ``wss://HOST`` for WebSocket on port 443, or on a wire of
    one's own ``mqtt://HOST:PORT`` without TLS. Empty: this node has no hub."""
    proxy: str = ""
    """An HTTP proxy on the way to the broker, ``http://[USER:PASSWORD@]HOST:PORT``; it is asked to
    CONNECT. Empty: none; those of the environment are for bundles."""
    first_retry_s: float = 0.5
    most_retry_s: float = 30.0
    """A broken link is tried again after a random time up to this, growing from the first."""
    resend_s: float = 5.0
    """A batch that the hub has not acknowledged is sent again after this, then ever more rarely."""
    sample_s: float = 1.0
    """How often the machine is measured, for the stream of metrics; 0: never."""
    metrics_s: float = 15.0
    """How long measurements gather before they are written and sent together.

    A crash loses no more of them than this; they cost one durable write each time.
    """
    audit_bytes: int = 64 << 20
    """What the hub has not acknowledged of the audit log may take so much of the disk.

    When it does, imports and commands are refused until the hub has heard of some; serving goes on.
    """
    receipts_bytes: int = 64 << 20
    """From this on the status warns that too many receipts wait; none is ever dropped."""
    usage_bytes: int = 256 << 20
    """From this on the status warns that too many usage records wait; none is ever dropped."""
    reported_bytes: int = 16 << 20
    """States of this node; beyond it the oldest are dropped."""
    events_bytes: int = 32 << 20
    """Beyond it the oldest events are dropped."""
    metrics_bytes: int = 192 << 20
    """Beyond it metrics lose detail: one record a minute, then one a quarter of an hour."""
    commands: str = "collect-diagnostics, restart-engine, run-golden-prompts, hold"
    """What the hub may command here, with commas between; a verb that is not named is refused."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    bytes_per_second: int = 0
    """The most that transfers of bundles take of this machine's link; 0: no limit of its own.

    A site's document may say less.
    """
    timeout_s: float = 30.0
    """A server that is silent, or only drips, for so long counts as gone."""
    tries: int = 6
    """How often in a row a request may fail before a transfer is interrupted."""
    ca_file: str = ""
    """A PEM file of certificates to trust instead of the system's, for servers of bundles."""
    auth_file: str = ""
    """Accounts, in a file as docker, podman and oras write it; empty: where they do."""
    also_hosts: str = ""
    """Hosts that a server may send us on to, besides itself, with commas between; HTTPS only."""


@dataclass(frozen=True, slots=True)
class UpgradeSettings:
    gate_s: float = 120.0
    """How long a new controller may take to be fit; after that the old one is started again."""
    hold_s: float = 5.0
    """How long it must stay fit before it may stay."""
    stop_s: float = 30.0
    """How long a controller that is stopped may take; then it is killed. Engines go on."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    host: str = "127.0.0.1"
    port: int = 8090
    broker: str = "mqtt://127.0.0.1:1883"
    heartbeat_s: float = 30.0
    """What the nodes of this fleet use; unheard for three of them a node is stale."""
    certificate_days: float = 365.0
    """How long a node's certificate is good; it is renewed when three quarters of that are over."""
    renew_expired_days: float = 365.0
    """How long after its certificate's end a node may still renew it with the same keys; 0: never.
    Later a person enrols it again."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    scrub_bytes_per_s: int = 32 << 20
    """How fast blobs are read again in the background. More takes the disk from loading models."""
    scrub_every_days: float = 7.0
    """How long a blob may go without being looked at. A rate that is too low never gets there."""
    staged_days: float = 14.0
    """How long a model that was imported and never served is kept although there is no room."""
    leftover_days: float = 30.0
    """How long an interrupted import may be resumed before what it has so far is removed."""
    quarantine_days: float = 30.0
    """How long a damaged blob is kept for somebody to look at."""


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    kubeconfig: str = ""
    """How to reach the cluster: a kubeconfig file, or ``in-cluster`` in a pod. Empty: no
    Kubernetes; engines are processes of this machine."""
    namespace: str = "edge-engines"
    """Where ModelDeployments and their engines are; those elsewhere are told so, and left alone."""
    system_namespace: str = "edge-system"
    """Where the gateway, the Leases and what the admission policies read are."""
    node: str = ""
    """What the cluster calls this machine. Empty: its host name, in lower case."""
    engine_image: str = ""
    """The engine's container image. Empty: the one that the engine's profile names."""
    runtime_class: str = ""
    """The RuntimeClass of engines, such as ``nvidia``; empty: the cluster's default."""
    take_over: str = "if-no-diff"
    """When the fleet takes over what somebody here made: never, if-no-diff or always."""
    resync_s: float = 600.0
    """How often everything is looked at although no watch told of a change."""

    @property
    def node_name(self) -> str:
        """What the cluster calls this machine."""
        return self.node or socket.gethostname().lower()


@dataclass(frozen=True, slots=True)
class Settings:
    node: NodeSettings = field(default_factory=NodeSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    hub: HubSettings = field(default_factory=HubSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    upgrade: UpgradeSettings = field(default_factory=UpgradeSettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)


def load(path: Path | None, env: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in a file, with the environment's over them.

    Args:
        path: A TOML file; None takes the defaults.
        env: The environment.

    Raises:
        NotFoundError, StateUnusableError: the file is not there, or cannot be read.
        BadDocumentError: not TOML, an unknown name, or a value of the wrong type.
    """
    tables: dict[str, Any] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text())
        except FileNotFoundError as error:
            raise NotFoundError(f"there are no settings at {path}") from error
        except UnicodeDecodeError as error:
            raise BadDocumentError(f"{path}: not text: {error.reason}") from error
        except OSError as error:
            raise StateUnusableError(f"the settings at {path} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise BadDocumentError(f"{path}: not TOML: {error}") from error
    groups = get_type_hints(Settings)
    for name in tables:
        if name not in groups:
            raise BadDocumentError(f"{path}: [{name}] is not known; allowed: {', '.join(groups)}")
    found = {name: _group(name, kind, tables.get(name, {}), env) for name, kind in groups.items()}
    return Settings(**found)


def _group(name: str, kind: type[Group], table: object, env: Mapping[str, str]) -> Group:
    hints = get_type_hints(kind)
    if not isinstance(table, dict):
        raise BadDocumentError(f"settings: {name} is not a table")
    values = dict(table)
    for key in hints:
        text = env.get(f"APPLIANCE_{name}_{key}".upper())
        if text is not None:
            values[key] = _from_text(text, hints[key], f"{name}.{key}")
    for key, value in values.items():
        if key not in hints:
            raise BadDocumentError(
                f"settings: {name}.{key} is not known; allowed: {', '.join(hints)}"
            )
        values[key] = _checked(value, hints[key], f"{name}.{key}")
    return kind(**values)


def _from_text(text: str, kind: type, where: str) -> object:
    try:
        return kind(text)
    except ValueError as error:
        raise BadDocumentError(f"settings: {where}: {text!r} is not {_WORDS[kind]}") from error


def _checked(value: object, kind: type, where: str) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise BadDocumentError(f"settings: {where}: {value!r} is not {_WORDS[kind]}")
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        raise BadDocumentError(f"settings: {where}: {value!r} is below zero, or without end")
    if value == 0 and where not in _MAY_BE_ZERO:
        raise BadDocumentError(f"settings: {where}: must be more than zero")
    return value


_MAY_BE_ZERO = {
    "hub.renew_expired_days",
    "network.bytes_per_second",
    "gateway.port",
    "gateway.hold_s",
    "hub.port",
    "engine.drain_s",
    "upgrade.hold_s",
    "sync.sample_s",
}
_WORDS: Mapping[type, str] = {int: "a whole number", float: "a number", str: "text"}
