"""One stage for all: scenes are built once in each process."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.attack import Stage

_MEMORY = Path("/dev/shm")  # noqa: S108 - a verdict does not depend on a disk, but its speed does


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="attacks-", dir=where) as folder:
        yield Stage(Path(folder))
