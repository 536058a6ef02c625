"""Whatever happens to one byte of a bundle: it is refused, or it did not matter."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.cache import catalog
from appliance.errors import ApplianceError
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import small_llama
from tests.helpers.importing import Seen, small_node
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, Draft, Signer, digest_of

pytestmark = pytest.mark.slow

SIGNER = Signer.new()
DRAFT = Draft(small_llama(b"\0" * 64))
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass
class Lab:
    """A whole bundle, a copy to damage, and nodes that have seen nothing."""

    base: Path
    good: Path
    files: list[Path]
    nodes: list[Node]

    def node(self, *, knows: bool) -> Node:
        """Return a node that knows nothing yet, or one that has this bundle already."""
        for node in self.nodes:
            if bool(node.ledger.read(catalog.variants)) == knows:
                return node
        clock = ScriptedClock(utc=ISSUED)
        made = small_node(self.base / f"node-{len(self.nodes)}", SIGNER, clock)
        if knows:
            made.importer.run(self.good, "a test")
        self.nodes.append(made)
        return made

    def damaged(self, which: int, at: int, mask: int) -> Path:
        """Return a copy of the bundle in which one byte differs."""
        copy = self.base / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.good, copy)
        name = self.files[which % len(self.files)]
        data = bytearray((copy / name).read_bytes())
        data[at % len(data)] ^= mask
        (copy / name).write_bytes(data)
        return copy


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    base = tmp_path_factory.mktemp("damage")
    good = DRAFT.write(base / "good", SIGNER)
    (good / "tuf" / "2.root.json").write_bytes(SIGNER.root_file(2))
    files = sorted(path.relative_to(good) for path in good.rglob("*") if path.is_file())
    made = Lab(base, good, files, [])
    yield made
    for node in made.nodes:
        node.close()


def check_nothing_unverified(node: Node) -> None:
    """Every blob is what its name says, and every row what was signed."""
    for digest in node.store.blobs.all():
        assert digest_of(node.store.blobs.path(digest).read_bytes()) == digest
    for row in node.ledger.read(catalog.variants):
        assert row.manifest == digest_of(DRAFT.blobs["manifest"])
        assert (row.reference, row.weights) == ("small:1.0.0-Q4_0", digest_of(DRAFT.weights))
    assert [path.name for path in (node.state / "incoming").iterdir()] == [".lock"]


@quick
@given(st.integers(0, 1000), st.integers(0, 1 << 20), st.integers(1, 255))
def test_one_damaged_byte_is_refused_or_harmless(lab: Lab, which: int, at: int, mask: int) -> None:
    node, folder = lab.node(knows=False), lab.damaged(which, at, mask)
    before = Seen.of(node).without_trust()
    try:
        node.importer.run(folder, "a test")
    except ApplianceError:
        assert Seen.of(node).without_trust() == before
    check_nothing_unverified(node)
    # Nor does it keep the node from taking the whole bundle in later.
    assert node.importer.run(lab.good, "a test").models == ("small:1.0.0-Q4_0",)
    check_nothing_unverified(node)


@quick
@given(st.integers(0, 1000), st.integers(0, 1 << 20), st.integers(1, 255))
def test_what_a_node_has_is_not_changed_by_a_damaged_copy(
    lab: Lab, which: int, at: int, mask: int
) -> None:
    node, folder = lab.node(knows=True), lab.damaged(which, at, mask)
    before = Seen.of(node)
    with contextlib.suppress(ApplianceError):
        node.importer.run(folder, "a test")
    assert Seen.of(node) == before


def test_the_bundle_has_every_kind_of_file(lab: Lab) -> None:
    names = {str(path) for path in lab.files}
    assert {hashlib.sha256(data).hexdigest() for data in DRAFT.blobs.values()} == {
        path.name for path in lab.files if path.parts[0] == "blobs"
    }
    assert {name for name in names if not name.startswith("blobs")} == {
        "bundle.json", "tuf/1.snapshot.json", "tuf/1.targets.json", "tuf/2.root.json",
        "tuf/timestamp.json",
    }  # fmt: skip
