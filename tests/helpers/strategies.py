"""Strategies that tests of several packages share."""

from typing import Any

from hypothesis import strategies as st

words = st.text(st.characters(codec="utf-8"), max_size=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, data: Any) -> Any:
    """Return JSON data with one place in it replaced, removed or added to."""
    if not isinstance(data, dict | list) or not data or draw(st.integers(0, 3)) == 0:
        return draw(json_values)
    places = list(data) if isinstance(data, dict) else list(range(len(data)))
    place = draw(st.sampled_from(places))
    copy = data.copy()
    match draw(st.sampled_from(["within", "remove", "add"])):
        case "remove":
            del copy[place]
        case "add" if isinstance(copy, dict):
            copy[draw(words)] = draw(json_values)
        case _:
            copy[place] = draw(damaged(data[place]))
    return copy
