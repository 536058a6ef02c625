"""How far models may grow before the kubelet evicts pods."""

import pytest

from appliance.planner.pressure import (
    K3S_DEFAULTS,
    KUBELET_DEFAULTS,
    Watched,
    begins_at,
    outlook,
)

GIB = 1 << 30
BOTH = frozenset({"nodefs", "imagefs"})


def disk(free: int, signals: frozenset[str] = BOTH) -> Watched:
    return Watched(500 * GIB, free * GIB, signals)


@pytest.mark.parametrize(
    ("signals", "defaults", "expected"),
    [
        (BOTH, KUBELET_DEFAULTS, 75),
        (frozenset({"nodefs"}), KUBELET_DEFAULTS, 50),
        (BOTH, K3S_DEFAULTS, 25),
        (frozenset(), KUBELET_DEFAULTS, 0),
        (BOTH, {"memory.available": "100Mi"}, 0),
        (BOTH, {"nodefs.available": "60Gi"}, 60),
    ],
)
def test_where_eviction_begins(
    signals: frozenset[str], defaults: dict[str, str], expected: int
) -> None:
    assert begins_at([defaults], disk(400, signals)) == expected * GIB


def test_a_soft_threshold_counts_where_it_is_the_higher() -> None:
    assert begins_at([K3S_DEFAULTS, {"imagefs.available": "20%"}], disk(400)) == 100 * GIB


def test_a_threshold_that_is_none_is_an_error_not_zero() -> None:
    with pytest.raises(ValueError, match=r"'ten'|could not convert"):
        begins_at([{"nodefs.available": "ten"}], disk(400))


def test_a_budget_that_leaves_too_little_is_warned_of_with_what_to_do() -> None:
    found = outlook(disk(440), 50 * GIB, 40 * GIB, 450 * GIB, 0)
    assert found.likely is True
    assert found.floor == 51 * GIB
    assert found.message == (
        "models may grow to 450.0 GiB of 500.0 GiB, which leaves 30.0 GiB; eviction of pods begins"
        " at 50.0 GiB free; set disk.floor of the Site to 51Gi or more"
    )


def test_following_the_advice_ends_the_warning() -> None:
    warned = outlook(disk(440), 50 * GIB, 40 * GIB, None, 0)
    assert warned.likely is True
    assert outlook(disk(440), 50 * GIB, 40 * GIB, None, warned.floor).likely is False


def test_a_budget_that_leaves_enough_is_fine() -> None:
    found = outlook(disk(440), 50 * GIB, 40 * GIB, 400 * GIB, 0)
    assert found.likely is False
    assert found.floor == 0


def test_a_disk_that_is_below_it_already_says_so() -> None:
    found = outlook(disk(20), 50 * GIB, 400 * GIB, 400 * GIB, 10 * GIB)
    assert found.likely is True
    assert found.message.startswith("the disk has 20.0 GiB free already")


def test_a_store_that_is_over_its_budget_grows_by_nothing() -> None:
    assert outlook(disk(60), 50 * GIB, 400 * GIB, 300 * GIB, 0).likely is False


def test_a_disk_of_its_own_is_no_matter_of_the_kubelets() -> None:
    assert outlook(disk(10, frozenset()), 0, 400 * GIB, None, 0).likely is False


def test_what_is_not_known_is_neither_yes_nor_no() -> None:
    assert outlook(None, 50 * GIB, 0, None, 0).likely is None
    assert outlook(disk(440), None, 0, None, 0).likely is None
