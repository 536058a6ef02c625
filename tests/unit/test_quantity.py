import pytest

from appliance.core import quantity


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("1K", 1000), ("1Ki", 1024), ("6Gi", 6 << 30), ("0.5Mi", 1 << 19)]
)
def test_bytes_are_read(text: str, count: int) -> None:
    assert quantity.parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "Gi", "-1", "1GB", "1 Gi", "1e3", "\u0661"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        quantity.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1s", 1), ("15m", 900), ("2h", 7200), ("1.5d", 129600)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert quantity.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "-1s", "1w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        quantity.parse_duration(text)


def test_sizes_are_printed_for_people() -> None:
    assert [quantity.format_bytes(n) for n in (None, 0, 1023, 1536, 6 << 30, 3 << 40)] == [
        "not known", "0 B", "1023 B", "1.5 KiB", "6.0 GiB", "3.0 TiB",
    ]  # fmt: skip


def test_durations_are_printed_for_people() -> None:
    assert [quantity.format_duration(s) for s in (None, 0.012, 3, 60, 3700, 90000)] == [
        "not known", "12 ms", "3.0 s", "1 min", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip
