"""An honest hub and its node agree on what goes back, whatever was missed, sealed anew or lost."""

import sqlite3
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core import rollback
from appliance.errors import DowngradeError
from appliance.hub import store, words
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import deployment

pytestmark = pytest.mark.slow


Step = tuple[str, int]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["seal anew", "miss", "lose ledger", "restore hub"]), st.just(0)),
        st.tuples(st.just("go back"), st.integers(1, 6)),
    ),
    max_size=14,
)


class Both:
    """A hub's database, and the generations that its node heard."""

    def __init__(self, folder: Path) -> None:
        self.hub = Hub(folder)
        self.hub.admit(TalkingNode())
        payload = {"dbEpoch": "e1", "applied": {}}
        self.do(partial(store.set_reported, name="box-1", payload=payload, number=1, at="now"))
        self.heard: dict[int, str] = {}
        self.backup = 0
        self.lost: set[str] = set()

    def do(self, effect: Any) -> Any:
        return self.hub.db.submit(effect).result()

    def seal(self, *, anew: bool = False) -> dict[str, Any] | None:
        made: list[dict[str, Any]] = []

        def effect(db: sqlite3.Connection) -> None:
            def sealing(ask: store.Ask) -> bytes:
                back = words.sealing(db, "box-1", ask.generation, ask.documents)
                found = {} if back is None else {"rollback": back}
                made.append({"gen": ask.generation, "documents": ask.documents, **found})
                return b"sealed"

            store.sealed(db, "box-1", "2026", "2027" if anew else "2025", sealing)

        self.do(effect)
        return made[-1] if made else None

    def hear(self, word: dict[str, Any] | None) -> None:
        if word is None:
            return
        digest = rollback.digest_of(rollback.texts_of(word["documents"]))
        newest = self.heard.get(max(self.heard, default=0))
        is_old = digest != newest and digest in self.heard.values()
        try:
            back = rollback.check(word, word["gen"], digest, self.heard)
        except DowngradeError:
            assert digest in self.lost, "an honest hub is refused for what it has lost alone"
            return
        assert back is not None or not is_old, "nothing old comes back unsaid"
        self.heard[word["gen"]] = digest

    def restore(self) -> None:
        """Put the hub back to its first generations; it goes on above what the node follows."""
        newest = max(self.heard, default=0)
        self.lost |= set(self.heard.values())

        def effect(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM words WHERE generation > 2")
            db.execute("DELETE FROM rollbacks")
            db.execute(
                "UPDATE generations SET generation = max(generation, ?), envelope = NULL", (newest,)
            )
            if kept := words.history(db, "box-1"):
                words._put_back(db, "box-1", kept[max(kept)])

        self.do(effect)
        kept = self.do(lambda db: words.history(db, "box-1"))
        self.lost -= set(kept.values())


@settings(max_examples=80)
@given(STEPS)
def test_nothing_old_comes_back_unsaid_and_nothing_honest_is_refused(
    steps: Sequence[Step],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        both = Both(Path(folder))
        try:
            for kind, number in steps:
                play(both, kind, number)
        finally:
            both.hub.db.close()


def play(both: Both, kind: str, number: int) -> None:
    if kind == "ask":
        both.do(lambda db: store.put_documents(db, "box-1", [deployment("a", replicas=number)]))
        both.hear(both.seal())
    elif kind == "miss":
        both.do(lambda db: store.put_documents(db, "box-1", [deployment("a", replicas=3)]))
        both.seal()
    elif kind == "seal anew":
        both.hear(both.seal(anew=True))
    elif kind == "lose ledger":
        both.heard = {}
    elif kind == "restore hub":
        both.restore()
        both.do(_ask_again)
        both.hear(both.seal())
    elif number in both.do(lambda db: words.history(db, "box-1")):
        both.do(partial(words.roll_back, node="box-1", to=number, why="a test"))
        both.hear(both.seal())


def _ask_again(db: sqlite3.Connection) -> None:
    if store.generation(db, "box-1") is not None:
        store.next_generation(db, "box-1")
