"""The calls that a step takes. Blocking; any of them may be the last before a crash."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError, EngineError, NotFoundError
from appliance.kube.errors import ConflictError
from appliance.kube.pods.rendering import Json
from appliance.kube.pods.seen import PodSeen, Seen, differences, seen
from appliance.kube.pods.steps import Make, Mend, Remove, Step, foreign, written
from appliance.kube.resources import PODS
from appliance.runtime import logfile

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

_TAIL_LINES = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is there after a step; ``left`` are differences that writing ``mark`` did not cure."""

    seen: Seen | None
    mark: str = ""
    left: tuple[str, ...] = ()


def take(api: "KubeApi", step: Step, namespace: str) -> Outcome:
    """Take a step.

    Raises:
        EngineError: what has this name is not ours.
        ApplianceError: the server would not have it, or cannot be reached.
    """
    if isinstance(step, Make):
        return _make(api, step)
    if isinstance(step, Mend):
        return _mend(api, step)
    return _remove(api, step, namespace)


def _make(api: "KubeApi", step: Make) -> Outcome:
    """Make what nobody has made meanwhile.

    Server-side apply cannot be told to create only, and would take part of a foreign object: so it
    looks first, and takes a conflict for the answer in the moment between.
    """
    manifest = step.manifest
    try:
        found = seen(api.get(manifest.path))
    except NotFoundError:
        try:
            return Outcome(seen(api.apply(manifest.path, manifest.body)))
        except ConflictError as error:
            raise EngineError(foreign(manifest)) from error
    if not found.is_ours:
        raise EngineError(foreign(manifest))
    return Outcome(found)


def _mend(api: "KubeApi", step: Mend) -> Outcome:
    """Write our fields again; what others added to our lists only goes by a replacement."""
    manifest = step.manifest
    answer = api.apply(manifest.path, manifest.body, force=True)
    if _left(step, answer):
        version = answer["metadata"]["resourceVersion"]
        metadata = {**manifest.body["metadata"], "resourceVersion": version}
        answer = api.replace(manifest.path, {**manifest.body, "metadata": metadata})
    return Outcome(seen(answer), manifest.mark, _left(step, answer))


def _left(step: Mend, answer: Json) -> tuple[str, ...]:
    return tuple(differences(written(step.manifest), seen(answer).content))


def _remove(api: "KubeApi", step: Remove, namespace: str) -> Outcome:
    """Delete this very object, not one that has taken its name."""
    api.delete(step.resource.path(namespace, step.seen.name), uid=step.seen.uid)
    return Outcome(None)


def last_words(api: "KubeApi", namespace: str, pod: PodSeen) -> tuple[str, ...]:
    """Return the last lines of the engine that ended, or none when they cannot be had."""
    previous = "true" if pod.waiting or pod.runs else "false"
    path = PODS.path(namespace, pod.name, "log")
    try:
        text = api.text(path, container="engine", previous=previous, tailLines=str(_TAIL_LINES))
    except ApplianceError:
        return ()
    return tuple(logfile.last_lines(text, _TAIL_LINES))
