"""A store that is looked after."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.stores import CaredStore


@pytest.fixture
def cared(tmp_path: Path) -> Iterator[CaredStore]:
    made = CaredStore(tmp_path)
    yield made
    made.ledger.close()
