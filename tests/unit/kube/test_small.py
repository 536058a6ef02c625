"""Objects in the least room."""

import json

from appliance.kube import small


def test_what_was_packed_comes_back_and_is_small() -> None:
    found = {"metadata": {"name": "ü"}, "spec": {f"field{n}": "the same again" for n in range(50)}}
    assert small.unpacked(small.packed(found)) == found
    assert len(small.packed(found)) < len(json.dumps(found)) / 4


def test_equal_objects_give_equal_bytes() -> None:
    assert small.packed({"a": 1, "b": 2}) == small.packed({"b": 2, "a": 1})
