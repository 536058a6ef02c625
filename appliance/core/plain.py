"""Text from elsewhere, made harmless for a terminal."""

_LONGEST = 200


def plain(text: object, limit: int = _LONGEST) -> str:
    """Return ``text`` in printable characters, on one line and not endless.

    Whatever could move the cursor, change colours or reorder what is read (escape sequences, C1
    controls, bidirectional marks, line ends) is shown as its escape.
    """
    whole = str(text)
    shown = "".join(c if c.isprintable() else _escaped(c) for c in whole[:limit])
    return shown + ("…" if len(whole) > limit else "")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
