"""Marks of demand: any model's name, nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core import wire
from appliance.core.demand import Mark, file_name
from appliance.errors import MalformedError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(model=NAMES, waiting=st.booleans())
def test_a_mark_survives_its_file_whatever_the_model_is_called(
    model: str, *, waiting: bool
) -> None:
    mark = Mark(model, "2026-12-01T08:00:00Z", waiting)
    assert Mark.load(mark.dump()) == mark
    assert file_name(model).isalnum()


@given(one=NAMES, other=NAMES)
def test_each_model_has_a_file_of_its_own(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


GOOD = {"v": 1, "model": "m", "at": "now", "waiting": True}


@pytest.mark.parametrize(
    "change", [{"v": 2}, {"v": True}, {"model": 1}, {"at": None}, {"waiting": "yes"}]
)
def test_what_is_no_mark_is_refused(change: dict[str, object]) -> None:
    assert Mark.load(wire.dumps(GOOD)).model == "m"
    with pytest.raises(MalformedError):
        Mark.load(wire.dumps(GOOD | change))
    with pytest.raises(MalformedError):
        Mark.load(b"\x00")
