"""What engines in a cluster said last."""

from typing import Any

import pytest

from appliance.errors import BadDocumentError, PeerUnreachableError
from appliance.kube import logs
from appliance.kube.marks import DEPLOYMENT, REPLICA


class Api:
    """Pods with a log, a reason why there is none, or nobody there at all."""

    def __init__(self, said: dict[str, str | Exception] | None) -> None:
        self.said = said

    def list(self, path: str, *, labels: str) -> tuple[list[Any], str]:
        if self.said is None:
            raise PeerUnreachableError("nobody answers")
        assert path == "/api/v1/namespaces/edge-engines/pods"
        assert labels == "edge-appliance.dev/deployment=notes"
        return [pod(name) for name in self.said], "7"

    def text(self, path: str, *, container: str, tailLines: str) -> str:  # noqa: N803 - the server's
        assert (container, tailLines) == ("engine", "2")
        assert self.said is not None
        found = self.said[path.split("/")[-2]]
        if isinstance(found, Exception):
            raise found
        return found


def pod(name: str) -> dict[str, Any]:
    replica, _, start = name.rpartition(".")
    labels = {REPLICA: replica, DEPLOYMENT: "notes"}
    metadata: dict[str, Any] = {"name": name, "uid": name, "labels": labels}
    metadata["creationTimestamp"] = f"2026-01-0{start}"
    return {"metadata": metadata}


def read(said: dict[str, str | Exception] | None) -> dict[str, list[str]]:
    api: Any = Api(said)
    return logs.of_deployment(api, "edge-engines", "notes", 2)


def test_each_replica_tells_its_last_lines_those_of_its_newest_pod() -> None:
    said: dict[str, str | Exception] = {
        "notes-0.1": "old", "notes-0.2": "one\ntwo\x1b[31m\n", "notes-1.1": "three\n",
    }  # fmt: skip
    assert read(said) == {"notes-0": ["one", "two?[31m"], "notes-1": ["three"]}
    assert read({}) == {}


def test_one_that_never_ran_says_why_beside_the_others() -> None:
    waits = BadDocumentError('container "engine" is waiting to start')
    assert read({"notes-0.1": waits, "notes-1.1": "well"}) == {
        "notes-0": ['(no log: container "engine" is waiting to start)'], "notes-1": ["well"],
    }  # fmt: skip


def test_a_cluster_that_is_away_is_named_as_the_reason() -> None:
    with pytest.raises(PeerUnreachableError, match="the cluster keeps the engines' logs"):
        read(None)
