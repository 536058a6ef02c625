"""A bundle in volumes: all of it comes in, in order, and nothing else does."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from appliance.bundle.make.split import split
from appliance.bundle.media.http_medium import HttpMedium
from appliance.bundle.media.volumes import Volume
from appliance.core import wire
from appliance.errors import (
    CorruptError,
    IncompleteError,
    MalformedError,
    NotFoundError,
    StateUnusableError,
    UsageError,
)
from appliance.kit.weblink import Link, Url
from tests.fakes import web
from tests.fakes.web import WebServer
from tests.helpers.gguf import small_llama
from tests.helpers.importing import imported, interrupted, names, refused
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Signer, flip

pytestmark = pytest.mark.slow


MIB = 1 << 20
ADDED = ("small:1.0.0-Q4_0",)


@pytest.fixture
def draft() -> Draft:
    return Draft(small_llama(os.urandom(7 * MIB + 5)))


@pytest.fixture
def bundle(draft: Draft, signer: Signer, tmp_path: Path) -> Path:
    return draft.write(tmp_path / "demo", signer)


def test_one_volume_of_parts_is_imported_as_one(box: Node, bundle: Path, tmp_path: Path) -> None:
    (volume,) = split(bundle, tmp_path / "out", part_bytes=2 * MIB)
    assert volume.name == "demo.vol1"
    assert max(p.stat().st_size for p in volume.rglob("*")) == 2 * MIB
    assert sorted(p.suffix for p in volume.rglob("*.0??")) == [".000", ".001", ".002", ".003"]
    assert imported(box, volume)[0] == ADDED


def test_parts_come_over_the_network_too_and_go_on_where_they_ended(
    box: Node, bundle: Path, tmp_path: Path
) -> None:
    (volume,) = split(bundle, tmp_path / "out", part_bytes=2 * MIB)
    (second,) = volume.rglob("*.001")
    link = Link(timeout_s=5, tries=1, sleep=lambda _: None)
    with WebServer() as server, closing(HttpMedium(Url.parse(server.url), link)) as medium:
        server.serve_folder(volume)
        server.faults[f"/{second.relative_to(volume)}"] = [web.cut_after(MIB)]
        with pytest.raises(IncompleteError, match="the link broke"):
            box.importer.run(medium, "a test")
        assert box.importer.run(medium, "a test").added == ADDED


def test_volumes_are_imported_one_after_another(box: Node, bundle: Path, tmp_path: Path) -> None:
    volumes = split(bundle, tmp_path / "out", part_bytes=2 * MIB, volume_bytes=4 * MIB)
    assert [v.name for v in volumes] == ["demo.vol1", "demo.vol2", "demo.vol3", "demo.vol4"]
    assert all(sum(p.stat().st_size for p in v.rglob("*")) <= 4 * MIB for v in volumes)
    for number, volume in enumerate(volumes[:-1], start=1):
        error = interrupted(box, volume, 23)
        assert f"this is volume {number} of 4" in str(error)
        assert f"put in volume {number + 1}" in str(error.hint)
    assert imported(box, volumes[-1])[0] == ADDED
    assert names(box) == list(ADDED)


def test_a_later_volume_first_says_so_and_harms_nothing(
    box: Node, bundle: Path, tmp_path: Path
) -> None:
    one, two, *rest = split(bundle, tmp_path / "out", part_bytes=2 * MIB, volume_bytes=4 * MIB)
    assert "volume 2 of 4" in str(interrupted(box, two, 23))
    interrupted(box, one, 23)
    interrupted(box, one, 23)
    for volume in (two, *rest[:-1]):
        interrupted(box, volume, 23)
    assert imported(box, rest[-1])[0] == ADDED


def test_a_part_with_one_flipped_bit_is_found_at_the_end(
    box: Node, bundle: Path, tmp_path: Path
) -> None:
    (volume,) = split(bundle, tmp_path / "out", part_bytes=2 * MIB)
    flip(next(volume.rglob("*.001")))
    refused(box, volume, 26, commits=True)


@pytest.mark.parametrize("number", ["000", "003"])
@pytest.mark.parametrize("change", [b"!", None])
def test_a_part_of_another_length(
    box: Node, bundle: Path, tmp_path: Path, number: str, change: bytes | None
) -> None:
    (volume,) = split(bundle, tmp_path / "out", part_bytes=2 * MIB)
    part = next(volume.rglob(f"*.{number}"))
    data = part.read_bytes()
    part.write_bytes(data[:-1] if change is None else data + change)
    with pytest.raises((CorruptError, IncompleteError)):
        box.importer.run(volume, "a test")
    assert names(box) == []


@pytest.mark.parametrize(
    "hint",
    [
        7,
        {},
        {"this": 0, "of": 1, "partBytes": MIB},
        {"this": 2, "of": 1, "partBytes": MIB},
        {"this": 1, "of": 1000, "partBytes": MIB},
        {"this": 1, "of": 1, "partBytes": 1},
        {"this": True, "of": "1", "partBytes": MIB},
    ],
)
def test_a_hint_about_volumes_that_makes_no_sense(hint: object) -> None:
    with pytest.raises(MalformedError):
        Volume.parse(hint)


def test_splitting_says_what_is_wrong(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no bundle at"):
        split(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="at least 1 MiB"):
        split(bundle, tmp_path / "out", part_bytes=1)
    with pytest.raises(UsageError, match="too few"):
        split(bundle, tmp_path / "out", volume_bytes=MIB)
    split(bundle, tmp_path / "out")
    with pytest.raises(StateUnusableError, match="is there already"):
        split(bundle, tmp_path / "out")


def test_the_hint_keeps_what_it_said(bundle: Path, tmp_path: Path) -> None:
    (volume,) = split(bundle, tmp_path / "out")
    hint = wire.loads((volume / "bundle.json").read_bytes(), what="it")
    assert hint["name"] == "small"
    assert hint["volumes"] == {"this": 1, "of": 1, "partBytes": (4 << 30) - 1}
