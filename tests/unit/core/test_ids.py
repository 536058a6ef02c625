import re

import pytest

from appliance.core import ids

HEX = "0123456789abcdef" * 4


def test_a_node_id_and_a_digest_are_taken_as_they_are() -> None:
    assert ids.node_id("box-1") == "box-1"
    assert ids.hex_of(ids.digest(f"sha256:{HEX}")) == HEX


@pytest.mark.parametrize("text", ["", "Box", "a/b", "a+b", "#", "a\n", "ä", "a" * 64, ".", "a b"])
def test_what_could_steer_a_topic_is_no_node_id(text: str) -> None:
    with pytest.raises(ValueError, match="is not a node id"):
        ids.node_id(text)


@pytest.mark.parametrize(
    "text",
    [HEX, f"sha512:{HEX}", f"sha256:{HEX[:-1]}", f"sha256:{HEX}0", f"sha256:{HEX.upper()}",
     f"sha256:{HEX}\n", f"sha256:../{HEX[3:]}"],
)  # fmt: skip
def test_what_could_name_another_file_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="is not a digest"):
        ids.digest(text)


def test_the_pattern_of_names_and_its_words_agree() -> None:
    pattern = re.compile(ids.NAME_PATTERN)
    assert all(pattern.match(name) for name in ("a", "0", "a-b", "a" * 63))
    assert not any(pattern.match(name) for name in ("", "-a", "a-", "A", "a_b", "a" * 64))
