"""Going back at the hub: whatever brings an older set of documents back says so."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import rollback
from appliance.errors import NotFoundError, RefusedError, UsageError
from appliance.hub import store, words
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import deployment


class Asked:
    """A hub that asks, and what a node makes of each word that it hears."""

    def __init__(self, folder: Path) -> None:
        self.hub = Hub(folder)
        self.hub.admit(TalkingNode())
        self.heard: dict[int, str] = {}
        payload = {"dbEpoch": "e1", "applied": {}}
        effect = partial(store.set_reported, name="box-1", payload=payload, number=1, at="now")
        self.hub.db.submit(effect).result()

    def do(self, effect: Any, *args: Any) -> Any:
        return self.hub.db.submit(lambda db: effect(db, *args)).result()

    def ask(self, replicas: int) -> int:
        return int(self.do(store.put_documents, "box-1", [deployment("a", replicas=replicas)]))

    def seal(self, *, again: bool = False) -> dict[str, Any]:
        """Return the body of the word that is in force."""
        sealed: list[dict[str, Any]] = []

        def effect(db: Any) -> None:
            def make(ask: store.Ask) -> bytes:
                back = words.sealing(db, "box-1", ask.generation, ask.documents)
                sealed.append({"gen": ask.generation, "documents": ask.documents,
                               **({} if back is None else {"rollback": back})})  # fmt: skip
                return b"sealed"

            store.sealed(db, "box-1", "2026", "2027" if again else "2025", make)

        self.hub.db.submit(effect).result()
        return sealed[-1]

    def hear(self, word: dict[str, Any]) -> None:
        """Be the node."""
        digest = rollback.digest_of(rollback.texts_of(word["documents"]))
        rollback.check(word, word["gen"], digest, self.heard)
        self.heard[word["gen"]] = digest

    def say(self, replicas: int, *, heard: bool = True) -> dict[str, Any]:
        self.ask(replicas)
        word = self.seal()
        if heard:
            self.hear(word)
        return word


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path)
    yield made
    made.hub.db.close()


def test_what_is_new_is_no_return_and_what_was_said_before_is_one(asked: Asked) -> None:
    assert [asked.say(n).get("rollback") for n in (1, 2, 3)] == [None] * 3
    assert asked.say(1)["rollback"]["to"] == 1
    assert asked.say(3)["rollback"]["to"] == 3


def test_sealing_the_same_anew_is_no_return(asked: Asked) -> None:
    asked.say(1)
    again = asked.seal(again=True)
    assert (again["gen"], again.get("rollback")) == (2, None)
    asked.hear(again)


def test_a_node_that_missed_the_return_hears_of_it_when_it_is_sealed_anew(asked: Asked) -> None:
    for n in (1, 2):
        asked.say(n)
    asked.say(1, heard=False)
    again = asked.seal(again=True)
    assert again["rollback"]["to"] == 1
    asked.hear(again)


def test_somebody_goes_back_on_purpose(asked: Asked) -> None:
    for n in (1, 2, 3):
        asked.say(n)
    assert asked.do(words.roll_back, "box-1", 2, "three was too many") == 4
    word = asked.seal()
    assert word["rollback"] == {"to": 2, "why": "three was too many"}
    assert word["documents"][0]["spec"]["replicas"] == 2
    asked.hear(word)


def test_a_rollback_needs_a_reason_and_an_older_generation(asked: Asked) -> None:
    asked.say(1)
    for to, why in ((2, "why"), (0, "why"), (1, " "), (1, "x" * 201), (1, "bell\a")):
        with pytest.raises(UsageError):
            asked.do(words.roll_back, "box-1", to, why)
    with pytest.raises(NotFoundError):
        asked.do(words.roll_back, "nobody", 1, "why")


def test_a_restored_hub_says_that_it_goes_back(asked: Asked) -> None:
    for n in (1, 2):
        asked.say(n)
    asked.heard |= {7: asked.heard[1], 8: "what the lost hub said"}
    asked.do(lambda db: db.execute("UPDATE generations SET generation = 8, envelope = NULL"))
    asked.do(store.next_generation, "box-1")
    word = asked.seal()
    assert (word["gen"], word["rollback"]["to"]) == (9, 2)
    asked.hear(word)


def test_a_generation_that_the_hub_lost_can_be_named(asked: Asked) -> None:
    for n in (1, 2):
        asked.say(n)
    asked.heard |= {
        7: rollback.digest_of(rollback.texts_of([deployment("a", replicas=5).to_wire()])),
        8: "other",
    }
    asked.do(lambda db: db.execute("UPDATE generations SET generation = 8, envelope = NULL"))
    asked.ask(5)
    with pytest.raises(RefusedError, match="generation 7 said"):
        asked.hear(asked.seal())
    with pytest.raises(UsageError, match="never said"):
        asked.do(words.roll_back, "box-1", 7, "as before the restore")
    asked.do(partial(words.roll_back, keep=True), "box-1", 7, "as before the restore")
    asked.hear(asked.seal())


def test_a_generation_that_no_node_ever_heard_is_nothing_to_return_to(asked: Asked) -> None:
    asked.ask(1)
    asked.say(2)
    with pytest.raises(UsageError, match="generation 1 was never said"):
        asked.do(words.roll_back, "box-1", 1, "why")
    assert asked.do(store.documents, "box-1")[0]["spec"]["replicas"] == 2
