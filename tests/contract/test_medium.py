"""What every medium promises, held against a folder, a web server and a registry."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.make.push import Pusher
from appliance.bundle.media.http_medium import HttpMedium
from appliance.bundle.media.medium import FolderMedium, Medium
from appliance.bundle.media.reader import BundleReader
from appliance.bundle.media.registry import Reference
from appliance.bundle.media.registry_medium import RegistryMedium
from appliance.errors import IncompleteError, MalformedError
from appliance.kit.weblink import Link, Url
from tests.fakes.oci_registry import Registry
from tests.fakes.web import WebServer
from tests.helpers.clock import ScriptedClock
from tests.helpers.importing import imported, names, small_node
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, Draft, Signer, blob_path

LINK = Link(timeout_s=5, tries=2, sleep=lambda _: None)
BIG = os.urandom(5 << 20)


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.new()


@pytest.fixture
def box(tmp_path: Path, signer: Signer) -> Iterator[Node]:
    made = small_node(tmp_path / "box", signer, ScriptedClock(utc=ISSUED))
    yield made
    made.close()


class World:
    """A bundle's folder, and a medium that shows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.medium: Medium
        self.end: Callable[[], Any]


@contextmanager
def in_a_folder(world: World) -> Iterator[None]:
    world.medium = FolderMedium(world.folder)
    yield


@contextmanager
def on_a_web_server(world: World) -> Iterator[None]:
    with WebServer() as server:
        server.serve_folder(world.folder, "/bundles/small")
        medium = HttpMedium(Url.parse(f"{server.url}/bundles/small"), LINK)
        world.medium = medium
        yield
        medium.close()


@contextmanager
def in_a_registry(world: World) -> Iterator[None]:
    with Registry() as server:
        reference = Reference.parse(server.reference())
        Pusher(reference, LINK).push(world.folder)
        server.collect()
        medium = RegistryMedium(reference, LINK)
        world.medium = medium
        yield
        medium.close()


@pytest.fixture(params=[in_a_folder, on_a_web_server, in_a_registry])
def world(request: pytest.FixtureRequest, tmp_path: Path, signer: Signer) -> Iterator[World]:
    folder = Draft().write(tmp_path / "bundle", signer)
    (folder / "deltas").mkdir()
    (folder / "deltas" / "big.bin").write_bytes(BIG)
    made = World(folder)
    with request.param(made):
        yield made


@pytest.fixture
def medium(world: World) -> Medium:
    return world.medium


def test_small_files_are_read_whole(medium: Medium, world: World) -> None:
    for path in ("bundle.json", "tuf/timestamp.json", "tuf/1.snapshot.json"):
        data = (world.folder / path).read_bytes()
        assert medium.read(path, 1 << 20) == medium.read(path, len(data)) == data
        assert medium.size(path) == len(data)


def test_no_more_than_the_cap(medium: Medium) -> None:
    with pytest.raises(MalformedError, match=r"bundle\.json"):
        medium.read("bundle.json", 10)


def test_what_is_not_there(medium: Medium) -> None:
    for path in ("tuf/2.root.json", "blobs/sha256/" + "0" * 64, "none"):
        assert medium.size(path) is None
        with pytest.raises(IncompleteError, match="lacks"):
            medium.read(path, 100)
        with pytest.raises(IncompleteError, match="lacks"):
            medium.open(path)


@pytest.mark.parametrize("offset", [0, 1, 1 << 20, len(BIG) - 1, len(BIG), len(BIG) + 1])
def test_a_file_is_read_from_any_place(medium: Medium, offset: int) -> None:
    with medium.open("deltas/big.bin", offset) as file:
        found = bytearray(len(BIG))
        at = 0
        while count := file.readinto(memoryview(found)[at : at + (1 << 20)]):  # type: ignore[attr-defined]
            at += count
        assert found[:at] == BIG[offset:]
        assert file.read(1) == b""


def test_several_files_at_once(medium: Medium) -> None:
    with medium.open("deltas/big.bin") as one, medium.open("deltas/big.bin", 7) as two:
        assert one.read(100) == BIG[:100]
        assert two.read(100) == BIG[7:107]
        assert medium.read("bundle.json", 1 << 20)
        assert one.read(100) == BIG[100:200]


def test_a_node_imports_from_it(world: World, box: Node) -> None:
    found = box.importer.run(world.medium, "a test")
    assert found.added == ("small:1.0.0-Q4_0",)
    assert names(box) == ["small:1.0.0-Q4_0"]
    assert imported(box, world.folder)[1] == 0


def test_what_was_copied_before_is_gone_on_with(world: World, box: Node) -> None:
    weights = Draft().weights
    part = box.state / "incoming" / f"{blob_path(world.folder, weights).name}.part"
    part.write_bytes(weights[:1000])
    assert box.importer.run(world.medium, "a test").added == ("small:1.0.0-Q4_0",)


def test_it_says_what_it_is(medium: Medium) -> None:
    assert medium.name
    assert BundleReader(medium).release() == ("small", "1.0.0")
