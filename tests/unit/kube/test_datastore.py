"""Which datastore it is: a guess in the wrong direction would take a loss for deletions."""

from dataclasses import replace

import pytest

from appliance.core.mirror import Datastore
from appliance.kube.words.datastore import judged

KNOWN = Datastore("cluster", "namespace", "a,b", 1000, epoch=3)


@pytest.mark.parametrize(
    ("change", "epoch"),
    [
        ({}, 3),
        ({"version": 500_000}, 3),
        ({"version": 999}, 4),
        ({"version": 1000 + 1_000_000_000}, 4),
        ({"cluster": "other"}, 4),
        ({"namespace": "other"}, 4),
        ({"definitions": "a,c"}, 4),
    ],
)
def test_only_the_same_datastore_that_went_on_is_the_same(
    change: dict[str, object], epoch: int
) -> None:
    now = replace(KNOWN, **{"version": 1000, "epoch": 0, **change})  # type: ignore[arg-type]
    assert judged(KNOWN, now).epoch == epoch


def test_the_first_that_is_seen_is_the_first_epoch() -> None:
    assert judged(Datastore("", "", "", 0), replace(KNOWN, epoch=0)).epoch == 1
