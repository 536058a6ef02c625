"""What lies on a stick is offered by what it says of itself, and nothing of it is taken in."""

from pathlib import Path

from appliance.bundle.media import offers
from appliance.bundle.media.offers import Offer
from tests.helpers.signing import Draft, Signer


def test_bundles_at_the_top_and_one_level_below(tmp_path: Path, signer: Signer) -> None:
    for name in ("one", "two"):
        Draft(name=name).write(tmp_path / name, signer)
    (tmp_path / "photos").mkdir()
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    found = [Offer(tmp_path / name, name, "1.0.0") for name in ("one", "two")]
    assert offers.on(tmp_path) == found
    assert offers.on(tmp_path / "one") == found[:1]


def test_what_cannot_be_a_bundle_is_said_with_its_reason(tmp_path: Path, signer: Signer) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "bundle.json").write_text("{}")
    hostile = Draft().write(tmp_path / "hostile", signer)
    (hostile / "bundle.json").write_text('{"name": "\\u001b[2J", "version": "1"}')
    empty, found = offers.on(tmp_path)
    assert empty.problem is not None
    assert "holds no signed list" in empty.problem
    assert found.problem == "bundle.json names no bundle and version"


def test_a_stick_that_was_pulled_offers_nothing(tmp_path: Path) -> None:
    assert offers.on(tmp_path / "gone") == []


def test_only_so_many_names_are_looked_at(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "bundle.json").write_text("{}")
    assert len(offers.on(tmp_path)) == 256
