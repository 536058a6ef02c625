"""Refusals are noted, but nobody fills a disk by offering what is refused."""

from appliance.kit.sparing import Sparing

HOUR, DAY = 3600.0, 24 * 3600.0


def test_the_same_reason_is_noted_once_an_hour() -> None:
    sparing = Sparing()
    assert [sparing.why("bad", at) for at in (0, 1, HOUR, HOUR + 1)] == ["bad", None, None, "bad"]


def test_a_reason_is_cut() -> None:
    assert Sparing().why("x" * 1000, 0) == "x" * 300


def test_whoever_invents_reasons_gets_twenty_an_hour_and_sixty_a_day() -> None:
    sparing = Sparing()
    noted = [at for at in range(0, int(2 * DAY), 10) if sparing.why(f"reason {at}", at) is not None]
    assert len([at for at in noted if at < HOUR]) == 20
    assert len([at for at in noted if at < DAY]) == 60
    assert len(noted) == 120


def test_a_year_of_it_stays_below_ten_megabytes() -> None:
    sparing = Sparing()
    kept = sum(
        len(sparing.why(f"{minute} ".ljust(300, "x"), minute * 60.0) or "")
        for minute in range(365 * 24 * 60)
    )
    assert 0 < kept < 10 << 20
