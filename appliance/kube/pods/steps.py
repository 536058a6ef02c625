"""What has to be done so that the cluster holds what is wanted. Pure: it is told what is there.

The rules that keep engines up:

* A replica that runs is never changed because something else would be rendered today: another
  release of ours, other settings, other machines that hold its weights. It is only put back to
  what it was when somebody changed it. What does not run is always rendered anew.
* What is there in another revision than wanted wins: a revision is only changed by a stop.
* What is not ours is left alone, whatever its name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from appliance.core.model import Replica
from appliance.errors import EngineError
from appliance.kube.marks import DEPLOYMENT, REPLICA
from appliance.kube.pods.rendering import Json, Manifest, replica_in
from appliance.kube.pods.seen import Seen, differences
from appliance.kube.pods.view import View
from appliance.kube.resources import CLAIM_TEMPLATES, DEPLOYMENTS, Resource

Key = tuple[Resource, str]


@dataclass(frozen=True, slots=True)
class Make:
    """There is none that we know of: look, and make it."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Mend:
    """It is not as it should be."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Remove:
    """Nobody wants it any more."""

    resource: Resource
    seen: Seen


Step = Make | Mend | Remove


@dataclass(frozen=True, slots=True)
class Wanted:
    """A replica that should run."""

    replica: Replica
    revision: str


Draw = Callable[[Replica], list[Manifest]]


@dataclass(slots=True)
class Planner:
    """Finds the steps of one pass.

    Attributes:
        draw: Renders one replica.
        shared: Renders what the replicas of its ModelDeployment have in common.
        settled: Objects that were found right, so that they are not compared again.
        accepted: Differences that writing did not cure, by object and mark.
        errors: Why a replica cannot be as it should, by its id; written by a pass.
    """

    draw: Draw
    shared: Draw
    settled: dict[Key, tuple[Seen, str]] = field(default_factory=dict)
    accepted: dict[Key, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def plan(
        self, view: View, wanted: Mapping[str, Wanted], stopping: Mapping[str, str]
    ) -> list[Step]:
        """Return the steps, first what takes away, then what makes."""
        self.errors = {}
        held: set[Key] = set()
        left_alone: set[str] = set()
        steps: list[Step] = []
        for name, one in wanted.items():
            try:
                own = self._of_replica(view, one.replica)
                common = self.shared(one.replica)
            except EngineError as error:
                self.errors[name] = error.what
                left_alone.add(name)
                continue
            if own is None:
                left_alone.add(name)
            fresh = [m for m in (*(own or ()), *common) if (m.resource, m.name) not in held]
            held |= {(m.resource, m.name) for m in fresh}
            steps += self._steps(view, fresh, name)
        return [*self._leftovers(view, held, left_alone, wanted, stopping), *steps]

    def _of_replica(self, view: View, replica: Replica) -> list[Manifest] | None:
        """Return what a replica should be made of; None: what there is stays as it is."""
        drawn = self.draw(replica)
        deployment = drawn[-1]
        found = view.get(DEPLOYMENTS, replica.id)
        if found is None or not found.is_ours or found.mark == deployment.mark:
            return drawn
        if not any(pod.is_well for pod in view.pods(replica.id)):
            return drawn
        as_it_was = replica_in(found.annotations)
        if as_it_was is not None:
            drawn = self.draw(replace(replica, nodes=as_it_was.nodes))
        return drawn if drawn[-1].mark == found.mark else None

    def _steps(self, view: View, manifests: list[Manifest], replica: str) -> Iterator[Step]:
        for manifest in manifests:
            key = (manifest.resource, manifest.name)
            found = view.get(*key)
            if found is None:
                yield Make(manifest)
            elif not found.is_ours:
                self.errors[replica] = foreign(manifest)
            elif not found.is_deleting and not self._is_right(key, manifest, found):
                yield Mend(manifest)

    def _is_right(self, key: Key, manifest: Manifest, found: Seen) -> bool:
        settled = self.settled.get(key)
        if settled is not None and settled[0] is found and settled[1] == manifest.mark:
            return True
        left = tuple(differences(written(manifest), found.content))
        if left and self.accepted.get(key) != (manifest.mark, left):
            return False
        self.settled[key] = (found, manifest.mark)
        return True

    def _leftovers(
        self,
        view: View,
        held: set[Key],
        left_alone: set[str],
        wanted: Mapping[str, Wanted],
        stopping: Mapping[str, str],
    ) -> Iterator[Step]:
        """Yield the end of what was stopped, and of what no replica needs any more."""
        deployments = {one.replica.deployment for one in wanted.values()} | {*stopping.values()}
        for what in view.kinds:
            for found in view.all(what):
                if not found.is_ours or found.is_deleting or (what, found.name) in held:
                    continue
                if what is DEPLOYMENTS:
                    unwanted = found.name in stopping
                elif what is CLAIM_TEMPLATES:
                    unwanted = found.replica not in stopping and found.replica not in left_alone
                else:
                    unwanted = found.deployment not in deployments
                if unwanted:
                    yield Remove(what, found)


def key_of(step: Step) -> Key:
    """Return which object a step is about."""
    if isinstance(step, Remove):
        return step.resource, step.seen.name
    return step.manifest.resource, step.manifest.name


def owner_of(step: Step) -> tuple[str, str]:
    """Return whose object it is: a ModelDeployment's name, and a replica's if it is one's."""
    if isinstance(step, Remove):
        return step.seen.deployment, step.seen.replica
    labels = step.manifest.body["metadata"]["labels"]
    return labels[DEPLOYMENT], labels.get(REPLICA, "")


def foreign(manifest: Manifest) -> str:
    """Return what to say of somebody else's object."""
    return (
        f"there is a {manifest.resource.kind} {manifest.name} that this controller did not make: "
        "delete or rename it"
    )


def written(manifest: Manifest) -> Json:
    """Return what of a manifest is compared with what is there."""
    metadata = manifest.body["metadata"]
    kept = {key: metadata[key] for key in ("labels", "annotations", "ownerReferences")}
    return {"metadata": kept, "spec": manifest.body["spec"]}
