import pytest

from appliance.kit import cgroups

V1 = "4:memory:/box/a\n3:cpu,cpuacct:/\n1:name=systemd:/box\n0::/\n"


def test_both_versions_are_read() -> None:
    assert cgroups.parse("0::/system.slice/a:b.service\n") == {"": "/system.slice/a:b.service"}
    assert cgroups.parse(V1) == {
        "memory": "/box/a", "cpu": "/", "cpuacct": "/", "name=systemd": "/box", "": "/",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "nonsense", "1:2"])
def test_what_is_no_list_of_groups_names_none(text: str) -> None:
    assert cgroups.parse(text) == {}


def test_every_group_above_ours_counts_and_none_outside() -> None:
    groups = {"memory": "/box/a", "cpu": "/", "": "/../../other"}
    assert cgroups.levels(groups, "memory") == ["box/a", "box", ""]
    assert cgroups.levels(groups, "cpu") == [""]
    assert cgroups.levels(groups, "") == ["other", ""]
    assert cgroups.levels(groups, "pids") == []
