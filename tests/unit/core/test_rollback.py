"""Going back: only on purpose, and only to what was said."""

from typing import Any

import pytest

from appliance.core import rollback
from appliance.core.rollback import Rollback
from appliance.errors import DowngradeError, MalformedError

HEARD = {1: "a", 4: "b", 5: "c"}


def judged(generation: int, digest: str, said: Any = None) -> Rollback | None:
    payload = {} if said is None else {"rollback": said}
    return rollback.check(payload, generation, digest, HEARD)


def test_new_documents_and_the_same_as_now_need_no_word() -> None:
    assert judged(6, "d") is None
    assert judged(6, "c") is None
    assert rollback.check({}, 1, "a", {}) is None


@pytest.mark.parametrize("digest", ["a", "b"])
def test_older_documents_without_a_word_are_refused(digest: str) -> None:
    with pytest.raises(DowngradeError, match="does not say that it is a rollback"):
        judged(6, digest)


def test_older_documents_come_back_by_a_word_that_names_them() -> None:
    assert judged(6, "a", {"to": 1, "why": "it was better"}) == Rollback(1, "it was better")


def test_a_generation_that_never_came_here_may_be_returned_to() -> None:
    assert judged(6, "b", {"to": 3, "why": "why not"}) == Rollback(3, "why not")


@pytest.mark.parametrize(
    "said",
    [
        {"to": 4, "why": "that said otherwise"},
        {"to": 6, "why": "itself"},
        {"to": 0, "why": "nothing"},
        {"to": True, "why": "no number"},
        {"to": 1},
        {"to": 1, "why": ""},
        {"to": 1, "why": "x" * 201},
        {"to": 1, "why": "bell\a"},
        {"to": 1, "why": "x", "more": 1},
        "1",
    ],
)
def test_a_word_that_makes_no_sense_is_malformed(said: Any) -> None:
    with pytest.raises(MalformedError):
        judged(6, "a", said)
