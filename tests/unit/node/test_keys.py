"""API keys: shown once, kept as a hash."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.core.routes import ApiKey
from appliance.errors import NotFoundError, UsageError
from appliance.ledger.db import Ledger
from appliance.node import keys


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def create(ledger: Ledger, name: str) -> str:
    return ledger.record(partial(keys.create, key_id=name, tenant="t", at="now")).result()


def test_a_key_is_256_random_bits_and_its_text_is_kept_nowhere(
    ledger: Ledger, tmp_path: Path
) -> None:
    texts = [create(ledger, name) for name in ("b", "a")]
    assert len(set(texts)) == 2
    assert all(t.startswith("ea-") and len(t) == 3 + 43 for t in texts)
    hashes = [hashlib.sha256(t.encode()).hexdigest() for t in texts]
    assert ledger.read(keys.all_keys) == (
        ApiKey("a", "t", hashes[1]),
        ApiKey("b", "t", hashes[0]),
    )
    for file in tmp_path.iterdir():
        assert texts[0].encode() not in file.read_bytes()


def test_a_name_is_used_once(ledger: Ledger) -> None:
    create(ledger, "a")
    with pytest.raises(UsageError, match="there is a key 'a' already"):
        create(ledger, "a")
    assert len(ledger.read(keys.all_keys)) == 1


def test_a_revoked_key_is_gone_and_its_name_is_free(ledger: Ledger) -> None:
    first = create(ledger, "a")
    ledger.record(partial(keys.revoke, key_id="a")).result()
    assert ledger.read(keys.all_keys) == ()
    with pytest.raises(NotFoundError, match="no key 'a'"):
        ledger.record(partial(keys.revoke, key_id="a")).result()
    assert create(ledger, "a") != first
