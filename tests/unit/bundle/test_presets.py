"""Presets name open models by source, hold no digest, and say what to do next."""

from pathlib import Path

import pytest

from appliance.bundle.make import build as builder
from appliance.bundle.make.presets import STATUS, presets
from appliance.bundle.make.sources import describe
from appliance.core.quantity import parse_bytes
from appliance.errors import BadDocumentError, NotFoundError
from appliance.trust.repository import Repository
from tests.conftest import ROOT
from tests.helpers.signing import ISSUED

FOLDER = ROOT / "bundles" / "presets"


def test_there_is_one_for_each_size_of_card_and_smallest_first() -> None:
    found = presets()
    assert [preset.size_class for preset in found] == ["8Gi", "16Gi", "24Gi", "48Gi", "80Gi"]
    assert all(preset.models for preset in found)
    assert {preset.status for preset in found} == {"unverified"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_each_is_a_definition_that_nobody_locked(path: Path) -> None:
    definition = builder.read_definition(path)
    assert definition.document.metadata.annotations[STATUS] == "unverified"
    assert "sha256:" not in path.read_text()
    assert not definition.lock_path.exists()
    for model, variant in definition.variants():
        assert model.provenance is not None
        assert model.provenance.source is not None
        assert variant.named
    for source in definition.sources():
        assert source.huggingface is not None
        assert describe(source).startswith("huggingface ")


def test_building_one_says_what_to_do_first(tmp_path: Path) -> None:
    definition = builder.read_definition(FOLDER / "8gb.yaml")
    keys = Repository.init_solo(tmp_path / "keys", "acme", ISSUED)
    with pytest.raises(BadDocumentError, match="is not locked") as caught:
        builder.build(definition, tmp_path / "b", keys, tmp_path / "cache", ISSUED)
    assert caught.value.hint == f"appliance bundle lock {FOLDER / '8gb.yaml'}"


def test_one_that_was_locked_says_so(tmp_path: Path) -> None:
    (tmp_path / "8gb.yaml").write_text((FOLDER / "8gb.yaml").read_text())
    (tmp_path / "8gb.lock.yaml").write_text("what lock wrote")
    (found,) = presets(tmp_path)
    assert found.status == "locked"
    assert parse_bytes(found.size_class) == 8 << 30
    with pytest.raises(NotFoundError):
        presets(tmp_path / "nowhere")
