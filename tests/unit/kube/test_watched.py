"""One object, watched once and read twice."""

from typing import Any

from appliance.kube.objects.deployments import Reader
from appliance.kube.objects.watched import Watched, Watching, read_of, unread
from appliance.kube.words.owned import seen_of

OURS = "edge-engines"


def found(name: str = "a", namespace: str = OURS, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name, "namespace": namespace, "uid": f"u-{name}", "resourceVersion": "7",
        "labels": {"x": "y"}, "annotations": {"note": "n"},
    }  # fmt: skip
    body = {
        "apiVersion": "edge-appliance.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": metadata | more.pop("metadata", {}), "spec": {"model": "small"},
    }  # fmt: skip
    return body | more


def test_the_word_comes_back_as_it_stands() -> None:
    watched = Watching(Reader(OURS))(found())
    assert watched.seen(OURS) == seen_of(found())
    assert watched.read is not None
    assert watched.read.name == "a"


def test_what_is_being_deleted_is_nothing_to_planners_and_still_a_word() -> None:
    watched = Watching(Reader(OURS))(found(metadata={"deletionTimestamp": "2026-11-21T00:00:00Z"}))
    assert watched.read is None
    word = watched.seen(OURS)
    assert word is not None
    assert word.going
    assert read_of({"k": watched}) == {}


def test_another_namespace_is_no_word_of_ours() -> None:
    watched = Watching(Reader(OURS))(found(namespace="other"))
    assert watched.seen(OURS) is None
    assert watched.read is not None  # its status says that it is in the wrong place


def test_a_new_version_alone_is_no_change() -> None:
    watching: Watching[None] = Watching(unread)
    one, other = (watching(found(metadata={"resourceVersion": version})) for version in ("7", "8"))
    assert one == other
    assert watching(found(spec={"model": "large"})) != one


def test_who_scaled_it_is_kept() -> None:
    fields = [
        {"manager": "kubectl", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    ]
    watched: Watched[None] = Watching(unread)(found(metadata={"managedFields": fields}))
    word = watched.seen(OURS)
    assert word is not None
    assert (word.others, word.scaled) == (frozenset({"replicas"}), True)
