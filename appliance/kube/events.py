"""Kubernetes Events: what happened, for the people who type ``kubectl describe``.

Conditions say how things are; an Event says once that something came to pass. Events are help, not
record (that is the audit stream): they may be dropped, and never hold up who notes them.
"""

import asyncio
import datetime
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError, PeerUnreachableError
from appliance.kit.backoff import full_jitter
from appliance.kube.errors import ExistsError
from appliance.kube.resources import CORE_EVENTS, EVENTS, Resource

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi

log = logging.getLogger(__name__)

NORMAL = "Normal"
WARNING = "Warning"

_AGAIN_S = 600.0
_MOST_WAITING = 200
_MOST_REMEMBERED = 2000
_MOST_TEXT = 1024
_CONTROLLER = "edge-appliance.dev/controller"


def reference(kind: Resource, name: str, *, namespace: str = "", uid: str = "") -> "Json":
    """Return what an Event may be about; without ``uid``, ``kubectl describe`` does not show it."""
    whole = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "namespace": namespace,
        "name": name,
        "uid": uid,
    }
    return {key: value for key, value in whole.items() if value}


@dataclass(frozen=True, slots=True)
class Note:
    """Something that came to pass, at a time."""

    about: "Json"
    type: str
    reason: str
    message: str
    at: datetime.datetime
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def namespace(self) -> str:
        """Where its Event is kept: of what has no namespace, in ``default``, as kubectl expects."""
        return str(self.about.get("namespace") or "default")

    def current(self, instance: str) -> "Json":
        """Return the Event in ``events.k8s.io/v1``."""
        return {
            **self._head(EVENTS),
            "eventTime": _micro(self.at),
            "reportingController": _CONTROLLER,
            "reportingInstance": instance[:128],
            "action": self.reason,
            "reason": self.reason,
            "regarding": self.about,
            "note": _short(self.message),
            "type": self.type,
        }

    def old(self, instance: str) -> "Json":
        """Return the Event in ``v1``, for servers that have no other."""
        at = self.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            **self._head(CORE_EVENTS),
            "involvedObject": self.about,
            "reason": self.reason,
            "message": _short(self.message),
            "source": {"component": _CONTROLLER, "host": instance},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "type": self.type,
        }

    def _head(self, resource: Resource) -> "Json":
        name = f"{str(self.about.get('name', 'x'))[:230]}.{self.token}"
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


class Recorder:
    """Takes notes at once and sends them when it can."""

    def __init__(
        self,
        api: "KubeApi",
        instance: str,
        *,
        has_current: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``instance`` names this controller; ``has_current``: the server has events.k8s.io/v1."""
        self.dropped = 0
        """Notes that were never sent: too many waited, or the server did not want them."""
        self._api = api
        self._instance = instance
        self._has_current = has_current
        self._now = now
        self._waiting: deque[Note] = deque()
        self._noted: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._wake = asyncio.Event()

    def note(self, about: "Json", type_: str, reason: str, message: str) -> None:
        """Note that something came to pass; call it on the event loop. It raises nothing.

        Args:
            about: What it came to pass with: ``reference`` makes it.
            type_: ``NORMAL`` or ``WARNING``.
            reason: One word in CamelCase.
            message: A sentence for people; the same one is sent once in ten minutes.
        """
        fields = ("kind", "namespace", "name", "uid")
        what = (*(str(about.get(field, "")) for field in fields), type_, reason, message)
        now = self._now()
        if now - self._noted.get(what, -_AGAIN_S) < _AGAIN_S:
            return
        self._noted[what] = now
        self._noted.move_to_end(what)
        if len(self._noted) > _MOST_REMEMBERED:
            self._noted.popitem(last=False)
        at = datetime.datetime.now(datetime.UTC)
        self._waiting.append(Note(dict(about), type_, reason, message, at))
        if len(self._waiting) > _MOST_WAITING:  # the newest say more
            self._waiting.popleft()
            self.dropped += 1
        self._wake.set()

    async def run(self) -> None:
        """Send what was noted, until cancelled."""
        delays = full_jitter(0.5, 60)
        while True:
            while self._waiting:
                note = self._waiting[0]
                try:
                    await asyncio.to_thread(self._send, note)
                except PeerUnreachableError:
                    await asyncio.sleep(next(delays))
                    continue
                except ExistsError:
                    log.debug("the event %s had arrived before its answer was lost", note.token)
                except ApplianceError as error:
                    log.warning("the event %s was not taken: %s", note.reason, error)
                    self.dropped += 1
                except Exception:
                    log.exception("the event %s could not be sent", note.reason)
                    self.dropped += 1
                delays = full_jitter(0.5, 60)
                if self._waiting and self._waiting[0] is note:  # else it was dropped meanwhile
                    self._waiting.popleft()
            self._wake.clear()
            await self._wake.wait()

    def _send(self, note: Note) -> None:
        # Of what has no namespace: servers before 1.21 want such an Event of the new kind in
        # kube-system, where nobody looks for it.
        if self._has_current() and note.about.get("namespace"):
            self._api.create(EVENTS.path(note.namespace), note.current(self._instance))
        else:
            self._api.create(CORE_EVENTS.path(note.namespace), note.old(self._instance))


def _short(text: str) -> str:
    """Return at most as many bytes as the server takes."""
    data = text.encode()
    if len(data) <= _MOST_TEXT:
        return text
    return data[: _MOST_TEXT - 3].decode(errors="ignore") + "…"


def _micro(at: datetime.datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
