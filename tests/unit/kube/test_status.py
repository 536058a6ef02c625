"""A status says how things are, is written when something that matters changed, and ages well."""

import datetime
from typing import Any

import pytest

from appliance.core.state import (
    Condition,
    DeploymentStatus,
    ObservedReplica,
    Origin,
    Phase,
    Truth,
)
from appliance.kube.objects.status import About, happenings, refusal_of, status_of, undone
from appliance.kube.pods.driver import KubernetesDriver
from tests.helpers.abilities import abilities
from tests.helpers.models import deployment, variant

NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(hours=1)


def found(
    *phases: Phase,
    reason: str = "Serving",
    replicas: int = 1,
    impaired: str = "ready",
    **changes: Any,
) -> DeploymentStatus:
    engines = tuple(
        ObservedReplica(
            f"notes-{n}",
            "notes",
            "0",
            phase,
            node="a",
            message=impaired if phase is Phase.READY else f"notes-{n} failed",
        )
        for n, phase in enumerate(phases)
    )
    ready = sum(phase is Phase.READY for phase in phases)
    good = Truth.TRUE if ready >= replicas else Truth.FALSE
    conditions = changes.pop("conditions", None) or (
        Condition("Verified", Truth.TRUE, "Signed", "vouched for"),
        Condition("Fits", Truth.TRUE, "Fits", "1 x 1 GiB: on a"),
        Condition("Ready", good, reason, f"{ready} of {replicas} serve"),
    )
    return DeploymentStatus(
        "notes", changes.pop("origin", Origin.CLUSTER), "", "small", variant(), replicas, ready,
        conditions, engines, **changes,
    )  # fmt: skip


def write(status: DeploymentStatus, before: Any = None, **about: Any) -> Any:
    return status_of(status, About(**{"generation": 1, "at": NOW, **about}), before or {})


def stated(status: Any) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


SERVING = found(Phase.READY)


def test_what_serves_says_all_that_the_columns_show() -> None:
    status = write(SERVING, tokens_per_second=12.34)
    conditions = status.pop("conditions")
    assert status == {
        "observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "owner": "cluster",
        "selector": "edge-appliance.dev/deployment=notes", "variant": "Q4_0", "version": "1.0.0",
        "digest": variant().manifest, "tokensPerSecond": 12.3, "nodes": ["a"],
    }  # fmt: skip
    assert stated({"conditions": conditions}) == {
        "Ready": ("True", "Serving"), "Progressing": ("False", "Settled"),
        "Degraded": ("False", "AsExpected"), "Verified": ("True", "Signed"),
        "Fits": ("True", "Fits"), "Drifted": ("False", "AsDeclared"),
    }  # fmt: skip
    assert {c["lastTransitionTime"] for c in conditions} == {"2026-11-21T12:00:00Z"}
    assert {c["observedGeneration"] for c in conditions} == {1}


def test_nothing_new_is_not_written() -> None:
    before = write(SERVING)
    assert write(SERVING, before, at=LATER) is None
    assert write(SERVING, before, generation=2) is not None


def test_a_time_stays_for_as_long_as_its_status_does() -> None:
    before = write(found(Phase.STARTING, reason="Starting"))
    now = write(SERVING, before, at=LATER)
    times = {c["type"]: c["lastTransitionTime"] for c in now["conditions"]}
    assert times["Ready"] == times["Progressing"] == "2026-11-21T13:00:00Z"
    assert times["Verified"] == times["Drifted"] == "2026-11-21T12:00:00Z"


def test_arithmetic_that_moves_with_the_neighbours_is_not_written_by_itself() -> None:
    def lacking(left: str) -> DeploymentStatus:
        message = f"a has {left} left"
        return found(
            conditions=(
                Condition("Fits", Truth.FALSE, "NotEnoughMemory", message),
                Condition("Ready", Truth.FALSE, "NotEnoughMemory", message),
            )
        )

    before = write(lacking("1 GiB"))
    assert write(lacking("2 GiB"), before) is None
    assert "2 GiB" in str(write(lacking("2 GiB"), before, generation=2))


def test_what_fails_or_is_fewer_than_wanted_is_degraded() -> None:
    some = write(found(Phase.READY, Phase.BACKOFF, reason="EngineFails", replicas=2))
    assert stated(some)["Degraded"] == ("True", "EngineFails")
    odd = write(found(Phase.READY, impaired="there is a Service of its name"))
    assert stated(odd)["Degraded"] == ("True", "NotAsDeclared")
    few = write(found(Phase.READY, Phase.STARTING, reason="Starting", replicas=2))
    assert stated(few)["Degraded"] == ("True", "FewerThanWanted")
    assert stated(few)["Progressing"] == ("True", "Replacing")
    none = write(found(reason="NotInCatalogue"))
    assert stated(none)["Degraded"] == ("False", "AsExpected")
    assert stated(none)["Progressing"] == ("False", "NotInCatalogue")


def test_what_this_server_leaves_undone_ends_the_message_of_ready() -> None:
    status = write(SERVING, cannot=["this server is old"])
    assert status["conditions"][0]["message"] == "1 of 1 serve; this server is old"


@pytest.mark.parametrize(
    ("resources", "on_an_old_server", "nowhere"),
    [
        ({"gpu": 1}, True, []),
        ({"mig": "1g.10gb"}, True, []),
        ({"gpuMemory": "6Gi"}, False, ["resources.gpuMemory"]),
        ({"gpu": 0}, False, []),
    ],
)
def test_a_share_by_memory_is_acted_on_nowhere_and_not_for_the_servers_age(
    resources: dict[str, Any], *, on_an_old_server: bool, nowhere: list[str]
) -> None:
    document = deployment(resources=resources)
    said = "; ".join(undone(document, abilities((1, 20))))
    assert ("device plugins" in said) is on_an_old_server
    assert "memory" not in said
    assert document.not_yet_honoured(KubernetesDriver.honours) == nowhere


def test_a_rate_is_told_again_only_when_it_changed_by_a_fifth() -> None:
    before = write(SERVING, tokens_per_second=100)
    assert write(SERVING, before, tokens_per_second=119) is None
    assert write(SERVING, before, tokens_per_second=121)["tokensPerSecond"] == 121
    assert write(SERVING, before, tokens_per_second=0)["tokensPerSecond"] == 0
    assert write(SERVING, before) is None, "not told now: the last word stays"


def test_an_object_that_is_not_in_force_says_why_and_keeps_what_it_said_of_its_engines() -> None:
    before = write(SERVING)
    finding = Condition("Ready", Truth.FALSE, "Invalid", "replicas is not a number")
    now = refusal_of(finding, About(2, LATER), before)
    assert now is not None
    assert stated(now)["Ready"] == ("False", "Invalid")
    assert (now["readyReplicas"], now["observedGeneration"]) == (1, 2)
    assert stated(now)["Verified"] == ("True", "Signed")
    assert refusal_of(finding, About(2, LATER), now) is None


def test_events_say_what_came_to_pass_and_nothing_twice() -> None:
    starting = write(found(Phase.STARTING, reason="Starting"))
    serving = write(SERVING, starting)
    failing = write(found(Phase.BACKOFF, reason="EngineFails"), serving)
    assert [(h.is_warning, h.reason) for h in happenings({}, starting)] == [(False, "Starting")]
    assert [(h.is_warning, h.reason) for h in happenings(starting, serving)] == [(False, "Serving")]
    assert [(h.is_warning, h.reason) for h in happenings(serving, failing)] == [
        (True, "EngineFails")
    ]  # fmt: skip
    assert happenings(failing, failing) == []
