from pathlib import Path

import pytest

from appliance.errors import NoSpaceError
from appliance.kit.files import free_bytes
from appliance.kit.reserve import Reserve
from tests.helpers.disk import fill

SIZE = 256 << 10


def test_space_is_taken_and_given_back(small_disk: Path) -> None:
    reserve, before = Reserve(small_disk / "reserve", SIZE), free_bytes(small_disk)
    reserve.hold()
    reserve.hold()
    assert before - free_bytes(small_disk) == SIZE
    reserve.require()
    reserve.use()
    reserve.use()
    assert free_bytes(small_disk) == before
    with pytest.raises(NoSpaceError, match="nothing new is begun"):
        reserve.require()


def test_it_comes_back_only_when_there_is_space_enough(small_disk: Path) -> None:
    reserve = Reserve(small_disk / "reserve", SIZE)
    filler = fill(small_disk)
    held = []
    reserve.restore()
    held.append(reserve.is_held)
    filler.unlink()
    reserve.restore()
    held.append(reserve.is_held)
    assert held == [False, True]


def test_a_disk_that_is_full_takes_it_before_anything_is_written(small_disk: Path) -> None:
    reserve = Reserve(small_disk / "reserve", SIZE)
    reserve.use_if_full()
    reserve.hold()
    fill(small_disk)
    reserve.use_if_full()
    assert free_bytes(small_disk) == SIZE


def test_too_little_space_is_left_alone(small_disk: Path) -> None:
    reserve = Reserve(small_disk / "reserve", 2 << 20)
    before = free_bytes(small_disk)
    with pytest.raises(NoSpaceError, match="the reserve needs 2 MiB"):
        reserve.hold()
    assert (free_bytes(small_disk), reserve.is_held) == (before, False)


def test_a_reserve_whose_taker_was_killed_half_way_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    path.touch()
    reserve = Reserve(path, SIZE)
    with pytest.raises(NoSpaceError):
        reserve.require()
    reserve.hold()
    reserve.require()
    assert path.stat().st_blocks * 512 >= SIZE
