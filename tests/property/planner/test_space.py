"""Room for an import: what is said to fit does, and what is said to be lacking is enough."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from appliance.planner.space import RESERVE_BYTES, Room, lacking

sizes = st.integers(0, 1 << 40)
rooms = st.builds(Room, sizes, sizes, st.none() | sizes, st.none() | sizes)


@given(sizes, rooms)
def test_what_fits_leaves_what_must_stay_free(needed: int, room: Room) -> None:
    short, why = lacking(needed, room)
    assert bool(short) == bool(why)
    if needed and not short:
        assert room.free - needed >= max(RESERVE_BYTES, room.floor or 0)
        assert room.budget is None or room.stored + needed <= room.budget


@given(sizes, rooms)
def test_freeing_what_is_lacking_is_enough_and_no_less_is(needed: int, room: Room) -> None:
    """Whoever removes stored bytes has them free on the disk as well."""
    short, _ = lacking(needed, room)

    def freed(count: int) -> Room:
        return replace(room, free=room.free + count, stored=room.stored - count)

    assert lacking(needed, freed(short))[0] == 0
    if short > 1:
        assert lacking(needed, freed(short - 1))[0] == 1


@given(rooms)
def test_what_writes_nothing_always_fits(room: Room) -> None:
    assert lacking(0, room) == (0, "")
