"""From a definition to a bundle that a node takes in and other tools read."""

import datetime
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bundle.make import build as builder
from appliance.bundle.make.build import Built, Definition
from appliance.cache import catalog
from appliance.errors import (
    ApplianceError,
    BadDocumentError,
    CorruptError,
    MalformedError,
    NoSpaceError,
    NotFoundError,
    StateUnusableError,
)
from appliance.trust.repository import Repository
from tests.conftest import need_tool
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import write_small_llama
from tests.helpers.importing import contents
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED

TEXT = """\
apiVersion: edge-appliance.dev/v1alpha1
kind: BundleDefinition
metadata: {name: demo}
spec:
  version: 1.0.0
  models:
    - name: small
      version: 1.2.3
      publisher: acme
      licence: MIT
      variants:
        - {name: Q4_0, source: {file: q4.gguf}}
        - {name: Q8_0, source: {file: q8.gguf}}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.init_solo(tmp_path / "keys", "acme", ISSUED)


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    write_small_llama(tmp_path / "q4.gguf")
    write_small_llama(tmp_path / "q8.gguf", b"\1" * 8192)
    (tmp_path / "demo.yaml").write_text(TEXT)
    return builder.read_definition(tmp_path / "demo.yaml")


@pytest.fixture
def built(definition: Definition, repository: Repository, tmp_path: Path) -> Built:
    builder.lock(definition, tmp_path / "cache")
    return build(definition, repository)


@pytest.fixture
def node(repository: Repository, tmp_path: Path) -> Iterator[Node]:
    root = repository.roots[0].read_bytes()
    made = Node.create(tmp_path / "node", root, ScriptedClock(utc=ISSUED))
    (tmp_path / "node" / "reserve").unlink()
    yield made
    made.close()


def build(definition: Definition, repository: Repository, name: str = "bundle") -> Built:
    base = definition.path.parent
    return builder.build(definition, base / name, repository, base / "cache", ISSUED)


def refusal(definition: Definition, repository: Repository) -> ApplianceError:
    """Build what must be refused; check that the folders stay as they were."""
    before = contents(definition.path.parent)
    with pytest.raises(ApplianceError) as caught:
        build(definition, repository)
    assert contents(definition.path.parent) == before
    return caught.value


def test_what_is_built_is_taken_in(built: Built, node: Node) -> None:
    assert (built.name, built.version) == ("demo", "1.0.0")
    assert built.models == ("small:1.2.3-Q4_0", "small:1.2.3-Q8_0")
    found = node.importer.run(built.folder, "a test")
    assert (found.name, found.version, found.added) == ("demo", "1.0.0", built.models)
    rows = node.ledger.read(catalog.variants)
    assert [row.reference for row in rows] == list(built.models)
    assert built.size == sum(row.weights_bytes for row in rows)
    assert [node.store.weights(row).name for row in rows] == ["q4.gguf", "q8.gguf"]


def test_a_bundle_holds_what_the_design_says_and_no_more(built: Built) -> None:
    names = {str(path.relative_to(built.folder)) for path in built.folder.rglob("*.*")}
    assert names | {"oci-layout"} == {
        "bundle.json", "index.json", "oci-layout", "tuf/1.root.json", "tuf/1.snapshot.json",
        "tuf/1.targets.json", "tuf/timestamp.json",
    }  # fmt: skip
    blobs = [path.name for path in (built.folder / "blobs").iterdir()]
    assert blobs == ["sha256"]
    assert len(list((built.folder / "blobs" / "sha256").iterdir())) == 2 * 3 + 1 + 4
    hint = json.loads((built.folder / "bundle.json").read_bytes())
    assert hint == {
        "name": "demo", "version": "1.0.0", "models": list(built.models), "bytes": built.size,
        "others": ["boms/demo/1.0.0/mlbom"],
    }  # fmt: skip


def test_progress_ends_with_all_of_it(
    definition: Definition, repository: Repository, tmp_path: Path
) -> None:
    builder.lock(definition, tmp_path / "cache")
    told: list[tuple[str, int, int]] = []
    built = builder.build(
        definition, tmp_path / "b", repository, tmp_path / "cache", ISSUED,
        lambda *step: told.append(step),
    )  # fmt: skip
    assert told[-1] == ("small Q8_0", built.size, built.size)


def test_what_is_not_locked_is_not_built(definition: Definition, repository: Repository) -> None:
    error = refusal(definition, repository)
    assert (type(error), error.exit_code) == (BadDocumentError, 3)
    assert "is not locked" in str(error)
    assert error.hint == f"appliance bundle lock {definition.path}"
    builder.lock(definition, definition.path.parent / "cache")
    definition.path.write_text(TEXT.replace("q8.gguf", "new.gguf"))
    error = refusal(builder.read_definition(definition.path), repository)
    assert (type(error), error.exit_code) == (BadDocumentError, 3)
    assert "does not lock new.gguf" in str(error)


def test_a_source_that_changed_since_is_not_built(
    definition: Definition, repository: Repository, tmp_path: Path
) -> None:
    builder.lock(definition, tmp_path / "cache")
    write_small_llama(tmp_path / "q4.gguf", b"another")
    error = refusal(definition, repository)
    assert (type(error), error.exit_code) == (CorruptError, 26)
    builder.lock(definition, tmp_path / "cache")
    assert build(definition, repository).version == "1.0.0"


def test_what_is_there_is_never_overwritten(
    built: Built, definition: Definition, repository: Repository
) -> None:
    error = refusal(definition, repository)
    assert (type(error), error.exit_code) == (StateUnusableError, 6)
    assert f"{built.folder} is there already" in str(error)


def test_a_build_that_fails_leaves_no_folder(
    definition: Definition, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.lock(definition, tmp_path / "cache")
    (repository.folder / "timestamp-1.pem").rename(tmp_path / "safe")
    with pytest.raises(NotFoundError, match=r"timestamp-1\.pem"):
        build(definition, repository)
    assert not list(tmp_path.glob("*bundle*"))
    (tmp_path / "safe").rename(repository.folder / "timestamp-1.pem")
    with monkeypatch.context() as patched:
        patched.setattr("appliance.kit.files.free_bytes", lambda _: 1000)
        with pytest.raises(NoSpaceError, match="the bundle needs"):
            build(definition, repository)
    assert not list(tmp_path.glob("*bundle*"))
    (tmp_path / ".bundle.building").mkdir()
    (tmp_path / ".bundle.building" / "junk").write_text("what a killed one left")
    assert not (build(definition, repository).folder / "junk").exists()


def test_what_is_no_model_is_not_built(
    definition: Definition, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q8.gguf").write_bytes(b"not a model")
    with pytest.raises(MalformedError) as caught:
        builder.lock(definition, tmp_path / "cache")
    assert caught.value.exit_code == 27
    with monkeypatch.context() as patched:
        patched.setattr("appliance.bundle.make.locking.check_files", lambda *_: None)
        builder.lock(definition, tmp_path / "cache")  # as somebody may write a lock by hand
    error = refusal(definition, repository)
    assert (type(error), error.exit_code) == (MalformedError, 27)


def test_a_definition_that_is_none_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(NotFoundError, match="no bundle definition"):
            builder.read_definition(path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadDocumentError, match="is not text"):
        builder.read_definition(tmp_path / "x.yaml")


def test_the_lock_says_what_was_seen(definition: Definition, tmp_path: Path) -> None:
    path = builder.lock(definition, tmp_path / "cache")
    assert path == tmp_path / "demo.lock.yaml"
    locked = builder.read_lock(definition)
    assert {name: entry.size for name, entry in locked.items()} == {
        name: (tmp_path / name).stat().st_size for name in ("q4.gguf", "q8.gguf")
    }


def test_the_next_bundle_carries_newer_metadata_that_lists_both(
    built: Built, definition: Definition, repository: Repository, node: Node
) -> None:
    definition.path.write_text(TEXT.replace("version: 1.0.0", "version: 1.1.0"))
    later = builder.read_definition(definition.path)
    builder.lock(later, definition.path.parent / "cache")
    base = definition.path.parent
    newer = builder.build(
        later, base / "newer", repository, base / "cache", ISSUED + datetime.timedelta(days=1)
    )
    assert node.importer.run(newer.folder, "a test").version == "1.1.0"
    found = node.importer.run(built.folder, "a test")
    assert (found.added, found.others) == ((), ("boms/demo/1.0.0/mlbom",))
    assert node.importer.run(built.folder, "a test").copied_bytes == 0


def test_skopeo_reads_the_bundle_and_the_store(built: Built, node: Node) -> None:
    need_tool("skopeo")
    node.importer.run(built.folder, "a test")
    for row in node.ledger.read(catalog.variants):
        for folder in (built.folder, node.state / "store"):
            it = f"oci:{folder}:{row.reference}"
            done = subprocess.run(
                ["skopeo", "inspect", "--raw", it], capture_output=True, check=True
            )
            assert json.loads(done.stdout)["layers"][0]["digest"] == row.weights
            assert done.stdout == node.store.blobs.path(row.manifest).read_bytes()
