"""`bundle build --against`, `show` and `diff` from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.deltas import receipt
from tests.helpers.organisation import Organisation
from tests.helpers.signing import digest_of, new_key

pytestmark = pytest.mark.slow


def appliance(*words: object, code: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "appliance", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_a_bundle_is_built_against_a_receipt_and_looked_at(
    tmp_path: Path, organisation: Organisation
) -> None:
    size = 12 << 20
    whole = organisation.bundle(name="looked", body=bytes(size))
    (weights,) = (
        path for path in (whole / "blobs" / "sha256").iterdir() if path.stat().st_size > size
    )
    key = new_key()
    path = tmp_path / "receipt.json"
    path.write_bytes(receipt([digest_of(weights.read_bytes())], key))
    edited = organisation.bundle(name="looked", version="1.1.0", body=bytes(size - 9) + b"\1" * 9)
    definition = organisation.folder / edited.name.replace("bundle", "sources") / "looked.yaml"
    keys, cache = organisation.folder / "keys", organisation.folder / "cache"
    build = ["bundle", "build", definition, "--keys", keys, "--cache", cache]
    build += ["--against", path, "--base", whole]
    out, err = appliance(*build, "-o", tmp_path / "a")
    assert "0 blobs left out, 1 as deltas, 8.0 MiB need not be carried" in out
    assert "warning: receipt not checked" in err
    out, err = appliance(*build, "-o", tmp_path / "b", "--node-key", key.public, "--json")
    assert json.loads(out)["against"] == {"node": "box-1", "seq": 7, "checked": True}
    assert "warning" not in err
    appliance(*build, "-o", tmp_path / "c", "--node-key", new_key().public, code=20)
    assert not (tmp_path / "c").exists()

    root = tmp_path / "root.json"
    root.write_bytes(organisation.root)
    out, _ = appliance("bundle", "show", tmp_path / "a", "--root", root)
    assert "made against receipt 7 of box-1" in out
    assert "signatures  good" in out
    out, _ = appliance("bundle", "show", tmp_path / "a", "--json")
    assert json.loads(out)["signatures"]["checked"] is False
    out, _ = appliance("bundle", "diff", whole, tmp_path / "a")
    assert "changed  models/acme/looked/1.1.0/Q4_0" in out
    out, _ = appliance("bundle", "diff", path, tmp_path / "a", "--json")
    assert json.loads(out)["bytes"]["by_chunk"] < 5 << 20
