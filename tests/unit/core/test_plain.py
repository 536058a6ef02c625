"""What comes from elsewhere cannot play with a terminal."""

import pytest

from appliance.core.plain import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 模型 1.0", "Grüße, 模型 1.0"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("half \ud800", "half \\ud800"),
        ("\x7f", "\\x7f"),
    ],
)
def test_only_what_prints_is_printed(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert plain(text).isprintable()


def test_it_is_not_endless() -> None:
    assert plain("x" * 201) == "x" * 200 + "…"
    assert plain(["y"] * 1000, 10) == "['y', 'y',…"
