"""Which GPUs are fenced, and who has to leave them."""

import pytest

from appliance.core.machine import Gpu, GpuHealth, GpuSeen
from appliance.planner import fence
from appliance.planner.fence import Owner

POD = "0e5f3c1a-7b1e-4a53-9d0c-2f6f1f3f9a11"


def health(*gpus: GpuSeen) -> GpuHealth:
    return GpuHealth(gpus, "a test says so")


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_an_error_of_the_application_fences_nothing(xid: int) -> None:
    assert fence.of_xid(xid) == ""


@pytest.mark.parametrize("xid", [48, 62, 64, 74, 79, 94, 95, 119, 120, 140, 999])
def test_every_other_error_fences_also_one_that_nobody_knows_yet(xid: int) -> None:
    assert fence.of_xid(xid).startswith(f"XID {xid}: ")


def test_a_gpu_that_the_driver_calls_lost_is_gone() -> None:
    seen = health(GpuSeen(0, "GPU-a"), GpuSeen(1, "GPU-b", lost=True))
    assert list(fence.gone(["GPU-a", "GPU-b"], seen)) == ["GPU-b"]


def test_a_gpu_that_is_missing_is_gone() -> None:
    found = fence.gone(["GPU-a", "GPU-b"], health(GpuSeen(0, "GPU-a")))
    assert found == {"GPU-b": "this GPU is gone: the driver sees 1 without it"}
    assert list(fence.gone(["GPU-a"], health())) == ["GPU-a"]


def test_a_lost_gpu_that_has_no_name_any_more_is_known_by_the_others() -> None:
    seen = health(GpuSeen(0, "GPU-a"), GpuSeen(1, None, lost=True))
    assert list(fence.gone(["GPU-a", "GPU-b"], seen)) == ["GPU-b"]


def test_what_nobody_can_say_fences_nothing() -> None:
    assert fence.gone(["GPU-a"], GpuHealth(None, "no NVIDIA driver on this machine")) == {}
    nameless = health(GpuSeen(0, "GPU-a"), GpuSeen(1, None))
    assert fence.gone(["GPU-a", "GPU-b"], nameless) == {}, "the nameless one may be it"


def test_only_unfenced_gpus_can_be_used() -> None:
    gpus = [Gpu(u, None, None, None, None) for u in ("GPU-a", "GPU-b")]
    assert [g.uuid for g in fence.usable(gpus, {"GPU-a": "broken"})] == ["GPU-b"]


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD.replace('-', '_')}"
        ".slice/cri-containerd-77.scope\n",
        f"11:memory:/kubepods/burstable/pod{POD}/77\n",
        f"12:cpu:/k8s-hw-1/kubepods/besteffort/pod{POD}/77\n0::/\n",
    ],
)
def test_a_pods_process_is_its_replicas_however_the_groups_are_named(cgroup: str) -> None:
    others = [Owner("other-0", mark="aaaaaaaa-7b1e-4a53-9d0c-2f6f1f3f9a11"), Owner("third-0", 7)]
    assert fence.owner(42, cgroup, [*others, Owner("notes-0", mark=POD)]) == "notes-0"
    assert fence.owner(42, cgroup, others) is None


def test_an_engines_process_and_its_children_are_its_replicas() -> None:
    owners = [Owner("notes-0", 42, "appliance-1234abcd-0badcafe"), Owner("other-0", 43)]
    assert fence.owner(42, "", owners) == "notes-0"
    assert fence.owner(99, "4:memory:/x/appliance-1234abcd-0badcafe\n", owners) == "notes-0"
    assert fence.owner(99, "", owners) is None


def test_replicas_leave_fenced_gpus_and_no_others() -> None:
    users = {"GPU-a": ["notes-0", "chat-0"], "GPU-b": ["code-0"], "GPU-c": None}
    fenced = {"GPU-a": "XID 79", "GPU-c": "gone", "GPU-d": "asked"}
    assert fence.to_stop(users, fenced) == {
        "chat-0": "GPU GPU-a is fenced: XID 79",
        "notes-0": "GPU GPU-a is fenced: XID 79",
    }
    assert fence.to_stop(users, {}) == {}
