"""No text of the kernel makes a machine larger than it is, or the reading of it fail."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.hardware import host
from appliance.kit import cgroups

ASCII = st.text(st.characters(codec="ascii"), max_size=40)


@given(ASCII, st.sampled_from(["", "cpu", "memory"]))
def test_every_group_that_is_looked_at_is_ours_or_above_it(text: str, controller: str) -> None:
    groups = cgroups.parse(f"7:memory:/a/../{text}\n{text}")
    for level in cgroups.levels(groups, controller):
        assert ".." not in level.split("/")
        assert not level.startswith("/")


@given(ASCII)
def test_any_text_is_a_limit_or_none(text: str) -> None:
    for read in (host.parse_limit, host.parse_cpu_max):
        found = read(text)
        assert found is None or found >= 0
    host.parse_meminfo(text)
    host.parse_cpu_model(text)


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_sizes_are_read_as_they_are_printed(total: int, limit: int) -> None:
    assert host.parse_meminfo(f"MemTotal: {total:>12} kB\n") == {"MemTotal": total * 1024}
    assert host.parse_limit(f"{limit}\n") == limit
