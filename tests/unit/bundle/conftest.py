"""A node that trusts keys which tests may sign anything with."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.clock import ScriptedClock
from tests.helpers.importing import small_node
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, Signer


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer.new()


@pytest.fixture
def clock() -> ScriptedClock:
    """A clock that is right: a day after the bundles were signed."""
    return ScriptedClock(utc=ISSUED + datetime.timedelta(days=1))


@pytest.fixture
def box(tmp_path: Path, signer: Signer, clock: ScriptedClock) -> Iterator[Node]:
    made = small_node(tmp_path / "box", signer, clock)
    yield made
    made.close()
