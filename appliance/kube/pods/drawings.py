"""Renderings, kept: a pass over a thousand replicas draws none of them again."""

from collections.abc import Callable
from dataclasses import dataclass

from appliance.core.model import Replica
from appliance.errors import EngineError
from appliance.kube.pods.rendering import Manifest, Owner, Rendering
from appliance.runtime.profile import profiles


@dataclass(frozen=True, slots=True)
class _Drawn:
    key: tuple[object, ...]
    manifests: list[Manifest]


class Drawings:
    """What replicas are made of, as the cluster's settings and owners are now."""

    def __init__(self, owner: Callable[[str], Owner | None]) -> None:
        """``owner`` returns the ModelDeployment of a name, if there is one."""
        self._owner = owner
        self._rendering: Rendering | None = None
        self._kept: dict[tuple[str, str], _Drawn] = {}

    def use(self, rendering: Rendering) -> None:
        """Render by these settings and abilities from now on."""
        if rendering != self._rendering:
            self._rendering = rendering
            self._kept.clear()

    @property
    def rendering(self) -> Rendering:
        """What is rendered by now."""
        assert self._rendering is not None
        return self._rendering

    def replica(self, replica: Replica) -> list[Manifest]:
        """Return what one replica is made of, its Deployment last.

        Raises:
            EngineError: it cannot run here, or its ModelDeployment is not there.
        """
        owner = self._of(replica)
        return self._keep(
            ("replica", replica.id),
            (replica, owner),
            lambda: self.rendering.replica(replica, profiles()[replica.engine], owner),
        )

    def shared(self, replica: Replica) -> list[Manifest]:
        """Return what the replicas of its ModelDeployment have in common.

        Raises:
            EngineError: as ``replica``.
        """
        owner = self._of(replica)
        return self._keep(
            ("shared", replica.deployment),
            (replica.engine, owner),
            lambda: self.rendering.shared(replica.deployment, profiles()[replica.engine], owner),
        )

    def forget(self, replica_id: str) -> None:
        """Let go of a replica that is gone."""
        self._kept.pop(("replica", replica_id), None)

    def _of(self, replica: Replica) -> Owner:
        owner = self._owner(replica.deployment)
        if owner is None:
            raise EngineError(f"there is no ModelDeployment {replica.deployment} in the cluster")
        return owner

    def _keep(
        self, name: tuple[str, str], key: tuple[object, ...], draw: Callable[[], list[Manifest]]
    ) -> list[Manifest]:
        kept = self._kept.get(name)
        if kept is None or kept.key != key:
            kept = self._kept[name] = _Drawn(key, draw())
        return kept.manifests
