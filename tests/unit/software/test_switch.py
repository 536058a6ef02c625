import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import LockedError, MalformedError, NotFoundError, UsageError
from appliance.software import switch as decide
from appliance.software.switch import Intent, Outcome, Switch

NEW = Intent("2.0.0", "me", "now")
RUNS_OLD = Switch(current="1.0.0", previous=None, number=4, installed="0.1.0")


def test_one_that_is_fit_becomes_the_one_that_runs() -> None:
    ended = decide.succeed(decide.begin(decide.ask(RUNS_OLD, NEW)))
    assert (ended.current, ended.previous, ended.next) == ("2.0.0", "1.0.0", None)
    assert ended.last == Outcome(5, "2.0.0", "1.0.0", "me")
    assert ended.last.ok


def test_one_that_is_not_changes_nothing_but_what_is_told() -> None:
    ended = decide.fail(decide.begin(decide.ask(RUNS_OLD, NEW)), "it hangs")
    assert (ended.current, ended.previous, ended.next) == ("1.0.0", None, None)
    assert ended.last == Outcome(5, "2.0.0", "1.0.0", "me", "it hangs")
    assert not ended.last.ok


def test_one_try_at_a_time_and_never_of_what_runs() -> None:
    with pytest.raises(LockedError, match=r"to 2\.0\.0 is under way"):
        decide.ask(decide.ask(RUNS_OLD, NEW), Intent(None, "me", "now"))
    with pytest.raises(UsageError, match=r"1\.0\.0 is what runs"):
        decide.ask(RUNS_OLD, Intent("1.0.0", "me", "now"))
    with pytest.raises(UsageError, match="installed is what runs"):
        decide.ask(Switch(), Intent(None, "me", "now"))
    with pytest.raises(NotFoundError):
        decide.begin(RUNS_OLD)


@pytest.mark.parametrize(("tried", "when"), [(0, "before"), (1, "during")])
def test_an_intent_does_not_outlive_the_supervisor_that_found_it(tried: int, when: str) -> None:
    asked = decide.ask(RUNS_OLD, NEW)
    found = decide.recover(decide.begin(asked) if tried else asked, "0.1.0", current_is_whole=True)
    assert (found.current, found.next) == ("1.0.0", None)
    assert found.last is not None
    assert f"went down {when} the try" in found.last.why


def test_another_package_on_the_machine_is_the_last_word() -> None:
    found = decide.recover(RUNS_OLD, "0.2.0", current_is_whole=True)
    assert (found.current, found.previous, found.installed) == (None, "1.0.0", "0.2.0")
    same = decide.recover(RUNS_OLD, "0.1.0", current_is_whole=True)
    assert same == RUNS_OLD
    assert decide.recover(Switch(), "0.1.0", current_is_whole=False).current is None


def test_without_its_environment_the_installed_release_runs() -> None:
    found = decide.recover(RUNS_OLD, "0.1.0", current_is_whole=False)
    assert found.current is None
    assert found.last is not None
    assert "environment is gone" in found.last.why


def test_what_is_kept_is_what_runs_ran_and_will_be_tried() -> None:
    found = decide.ask(Switch(current="1", previous="0"), Intent("2", "", ""))
    assert found.kept == {"0", "1", "2"}
    assert Switch().kept == set()


versions = st.one_of(st.none(), st.sampled_from(["1.0.0", "2.0.0"]))
intents = st.builds(Intent, versions, st.text(), st.text(), st.booleans(), st.booleans())
outcomes = st.builds(Outcome, st.integers(0, 99), versions, versions, st.text(), st.text())
switches = st.builds(
    Switch, versions, versions, st.none() | intents, st.none() | outcomes, st.integers(0, 99)
)


@given(switches, st.booleans())
def test_wherever_the_power_is_cut_the_next_boot_starts_what_ran_before(
    found: Switch,
    whole: bool,  # noqa: FBT001
) -> None:
    again = decide.recover(Switch.load(found.dump()), "0.1.0", current_is_whole=whole)
    assert again.next is None
    assert again.current in (found.current, None)
    assert decide.recover(again, "0.1.0", current_is_whole=whole) == again


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"current":null,"previous":null,"next":{},"last":null}']
)
def test_a_file_that_is_not_one_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Switch.load(data)
