"""A site brings models of its own: copied, checked, signed by itself, never by a name in use."""

import json
import pickle
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.bundle.format import modelpack
from appliance.bundle.format.content import Facts
from appliance.bundle.take.bring import Wish, guessed_variant
from appliance.bundle.take.model_add import LocalModels
from appliance.cache import catalog, index
from appliance.core.definitions import BundleModel
from appliance.core.ids import Digest, hex_of
from appliance.core.model import FileKind, ModelFile, Variant
from appliance.errors import (
    ApplianceError,
    CorruptError,
    IncompleteError,
    MalformedError,
    NoSpaceError,
    NotFoundError,
    ScopeError,
    UsageError,
)
from appliance.ledger import budgets
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.trust import local
from tests.helpers.gguf import safetensors_of, small_llama, write_small_llama
from tests.helpers.importing import audit, contents, names
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Signer, digest_of

if TYPE_CHECKING:
    from appliance.bundle.media.queue import Step

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def models(box: Node) -> LocalModels:
    return LocalModels(box.importer.parts, box.importer.queue)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_small_llama(tmp_path / "my-model-Q4_K_M.gguf")


def row(box: Node) -> Variant:
    (found,) = box.ledger.read(catalog.variants)
    return found


def refused(box: Node, models: LocalModels, source: Path, wish: Wish) -> ApplianceError:
    """Add what must be refused; check that nothing of it stays."""
    before = contents(box.state), names(box), local.listed(box.state)
    with pytest.raises(ApplianceError) as caught:
        models.add(source, wish, "a test")
    assert (contents(box.state), names(box), local.listed(box.state)) == before
    return caught.value


def write_layout(folder: Path, weights: bytes, **changes: Any) -> Path:
    """Write a plain ModelPack, as another tool would have made it."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    model = BundleModel.model_validate(
        {"name": "theirs", "version": "9", "publisher": "them", "licence": "MIT",
         "variants": [{"name": "x", "source": {"file": "x"}}]}
    )  # fmt: skip
    digest = Digest(digest_of(weights))
    files = [ModelFile("theirs.gguf", digest, len(weights), FileKind.WEIGHT)]
    data, config = modelpack.build(model, "x", files, Facts("gguf", None, None, None))
    manifest = {**json.loads(data), **changes}
    data = json.dumps(manifest, indent=1).encode()
    for blob in (weights, config, data):
        (blobs / hex_of(Digest(digest_of(blob)))).write_bytes(blob)
    entry = {"mediaType": modelpack.MANIFEST_TYPE, "digest": digest_of(data), "size": len(data),
             "annotations": {"org.opencontainers.image.ref.name": "theirs:9"}}  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder


@pytest.mark.parametrize("layout", [False, True])
def test_all_its_blobs_are_known_so_that_a_restart_doubts_none(
    box: Node, models: LocalModels, gguf: Path, tmp_path: Path, *, layout: bool
) -> None:
    source = write_layout(tmp_path / "layout", gguf.read_bytes()) if layout else gguf
    models.add(source, Wish("mine"), "a test")
    known = box.ledger.read(index.rows)
    assert {d: r.size for d, r in known.items()} == box.store.sizes()
    assert {r.state for r in known.values()} == {index.BlobState.OK}


def test_a_file_becomes_a_model_that_may_start(box: Node, models: LocalModels, gguf: Path) -> None:
    steps: list[Step] = []
    found = models.add(gguf, Wish("mine", licence="MIT"), "a test", steps.append)
    assert row(box) == found
    assert (found.path, found.publisher) == ("local/mine/1.0.0/Q4_K_M", "local")
    assert (found.context_max, found.licence, found.format) == (8192, "MIT", "gguf")
    assert box.store.weights(found).read_bytes() == gguf.read_bytes()
    signed = local.listed(box.state)
    assert signed[found.path].digest == found.manifest
    box.trust.listed().with_local(signed).check_variant(found)
    assert steps[-2].done == steps[-2].total == gguf.stat().st_size
    assert audit(box)[-1]["kind"] == "model-add"
    assert audit(box)[-1]["body"] == {
        "by": "a test", "path": found.path, "manifest": found.manifest, "licence": "MIT",
        "bytes": gguf.stat().st_size,
    }  # fmt: skip
    assert not [name for name in contents(box.state) if name.endswith(".part")]


def test_a_link_to_a_file_is_what_it_leads_to(
    models: LocalModels, gguf: Path, tmp_path: Path
) -> None:
    """Model hubs keep files under their hashes, and links with their names."""
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "x-Q8_0.gguf").symlink_to(gguf.rename(tmp_path / "0a1b2c"))
    found = models.add(tmp_path / "snapshot" / "x-Q8_0.gguf", Wish("mine"), "a test")
    assert (found.file, found.name) == ("x-Q8_0.gguf", "Q8_0")


def test_without_the_site_s_signature_it_may_not_start(
    box: Node, models: LocalModels, gguf: Path
) -> None:
    found = models.add(gguf, Wish("mine"), "a test")
    with pytest.raises(ApplianceError):
        box.trust.listed().check_variant(found)


def test_a_folder_with_all_files_of_a_model(box: Node, models: LocalModels, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.bin").write_text("not looked at")
    (folder / "model.safetensors").write_bytes(safetensors_of({"a": b"xyz"}))
    (folder / "config.json").write_text('{"max_position_embeddings": 4096}')
    (folder / "sub" / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("# mine")
    found = models.add(folder, Wish("mine", capabilities=("embeddings",)), "a test")
    assert (found.name, found.format, found.context_max) == ("default", "safetensors", 4096)
    assert found.capabilities == ("embeddings",)
    assert {file.path for file in found.files} == {
        "model.safetensors", "config.json", "sub/tokenizer.json", "README.md",
    }  # fmt: skip
    assert (box.store.weights(found).parent / "sub" / "tokenizer.json").read_text() == "{}"


def test_a_plain_modelpack_keeps_its_manifest(
    box: Node, models: LocalModels, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "layout", small_llama())
    found = models.add(layout, Wish("mine", "2.0.0", "Q8_0"), "a test")
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    assert found.manifest == entry["digest"]
    assert (found.path, found.licence) == ("local/mine/2.0.0/Q8_0", "MIT")
    assert (found.context_max, found.kv_bytes_per_token) == (8192, 23040)
    assert local.listed(box.state)[found.path].digest == found.manifest
    assert box.store.weights(found).read_bytes() == small_llama()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.gguf", pickle.dumps({"a": 1})),
        ("model.gguf", b"PK\x03\x04"),
        ("model.gguf", b""),
        ("model.bin", small_llama()),
        ("model.pt", b"PK\x03\x04"),
        ("model.safetensors", b"\x80\x02"),
        ("config.json", b"{}"),
        (".hidden.gguf", small_llama()),
        ("a b.gguf", small_llama()),
    ],
)
def test_what_is_no_model_leaves_nothing(
    box: Node, models: LocalModels, tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    error = refused(box, models, tmp_path / name, Wish("mine"))
    assert (type(error), error.exit_code) == (MalformedError, 27)
    assert audit(box)[-1]["kind"] == "model-add-refused"
    assert audit(box)[-1]["body"]["code"] == "malformed"


@pytest.mark.parametrize("name", ["evil.py", "pytorch_model.bin", "x.so"])
def test_a_folder_with_something_else_in_it(
    box: Node, models: LocalModels, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    write_small_llama(tmp_path / "in" / "model.gguf")
    (tmp_path / "in" / name).write_text("x")
    assert refused(box, models, tmp_path / "in", Wish("mine")).exit_code == 27


def test_a_link_in_a_folder_is_not_followed(box: Node, models: LocalModels, tmp_path: Path) -> None:
    """Whoever may ask the controller to read a folder must not get to see what only it can read."""
    (tmp_path / "secret").write_text("only for the controller")
    (tmp_path / "in").mkdir()
    write_small_llama(tmp_path / "in" / "model.gguf")
    (tmp_path / "in" / "README.md").symlink_to(tmp_path / "secret")
    error = refused(box, models, tmp_path / "in", Wish("mine"))
    assert type(error) is CorruptError


@pytest.mark.parametrize(
    "change",
    [
        {"artifactType": "application/vnd.kitops.modelkit.manifest.v1+json"},
        {"layers": []},
        {"manifests": []},
        {"layers": [{"mediaType": "application/vnd.cncf.model.weight.v1.tar", "size": 1}]},
    ],
)
def test_a_layout_of_something_else(
    box: Node, models: LocalModels, tmp_path: Path, change: dict[str, Any]
) -> None:
    layout = write_layout(tmp_path / "layout", small_llama(), **change)
    error = refused(box, models, layout, Wish("mine"))
    assert (error.exit_code, bool(error.hint)) == (27, True)


def test_a_layout_whose_blobs_are_others(box: Node, models: LocalModels, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", small_llama())
    path = layout / "blobs" / "sha256" / hex_of(Digest(digest_of(small_llama())))
    path.write_bytes(small_llama(b"\1" * 4096))
    assert type(refused(box, models, layout, Wish("mine"))) is CorruptError
    path.unlink()
    assert type(refused(box, models, layout, Wish("mine"))) is IncompleteError
    pickled = write_layout(tmp_path / "pickled", pickle.dumps({"a": 1}))
    assert refused(box, models, pickled, Wish("mine")).exit_code == 27
    index = json.loads((pickled / "index.json").read_text())
    index["manifests"] *= 2
    (pickled / "index.json").write_text(json.dumps(index))
    assert type(refused(box, models, pickled, Wish("mine"))) is NotFoundError


def test_a_name_of_the_organisation_is_not_taken(
    box: Node, models: LocalModels, signer: Signer, tmp_path: Path, gguf: Path
) -> None:
    box.importer.run(Draft(name="small").write(tmp_path / "b", signer), "a test")
    error = refused(box, models, gguf, Wish("small", "9.9.9"))
    assert (type(error), error.exit_code) == (ScopeError, 28)
    assert models.add(gguf, Wish("small-mine"), "a test").model == "small-mine"


def test_a_name_that_only_the_signed_list_holds_is_not_taken_either(
    box: Node, models: LocalModels, signer: Signer, tmp_path: Path, gguf: Path
) -> None:
    draft = Draft(name="small")
    other = Draft(name="other")
    folder = draft.write(tmp_path / "b", signer, also=other.listed())
    box.importer.run(folder, "a test")
    assert type(refused(box, models, gguf, Wish("other"))) is ScopeError


def test_what_the_organisation_signs_later_stops_the_site_s_model_of_that_name(
    box: Node, models: LocalModels, signer: Signer, tmp_path: Path, gguf: Path
) -> None:
    mine = models.add(gguf, Wish("small", "0.1.0"), "a test")
    box.importer.run(Draft(name="small").write(tmp_path / "b", signer), "a test")
    listed = box.trust.listed()
    own = local.listed(box.state, local.organisation_models(listed.targets))
    assert set(listed.with_local(own).denied([mine])) == {mine.manifest}


def test_an_import_says_whose_place_it_takes(
    box: Node, models: LocalModels, signer: Signer, tmp_path: Path, gguf: Path
) -> None:
    """The site's bytes may be the only copy; who only asks is told as well."""
    mine = models.add(gguf, Wish("small", "1.0.0", "Q4_0"), "a test")
    folder = Draft(small_llama(b"theirs" * 99)).write(tmp_path / "b", signer)
    for dry in (True, False):
        found = box.importer.run(folder, "a test", dry=dry)
        assert found.displaced == (mine.reference,)
    assert box.importer.run(folder, "a test").displaced == ()


def test_what_is_here_already_is_said(box: Node, models: LocalModels, gguf: Path) -> None:
    models.add(gguf, Wish("mine"), "a test")
    error = refused(box, models, gguf, Wish("mine"))
    assert type(error) is UsageError
    assert "appliance model rm mine" in (error.hint or "")
    assert models.add(gguf, Wish("mine", "1.0.1"), "a test").version == "1.0.1"
    assert len(names(box)) == 2


def test_a_manifest_has_one_name(box: Node, models: LocalModels, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", small_llama())
    models.add(layout, Wish("mine"), "a test")
    error = refused(box, models, layout, Wish("yours"))
    assert "is here already, as mine:1.0.0-default" in str(error)


@pytest.mark.parametrize(
    "wish",
    [
        Wish(""), Wish("../x"), Wish("Mine"), Wish("a/b"), Wish("mine", ".."), Wish("mine", "1/2"),
        Wish("mine", variant="../x"), Wish("mine", variant="a b"), Wish("m" * 64),
        Wish("mine", licence="x" * 201),
    ],
)  # fmt: skip
def test_what_cannot_be_a_name(box: Node, models: LocalModels, gguf: Path, wish: Wish) -> None:
    assert type(refused(box, models, gguf, wish)) is UsageError


def test_nothing_there_and_no_room(
    box: Node, models: LocalModels, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(box, models, tmp_path / "nowhere.gguf", Wish("mine"))
    assert (type(error), "there is no model at" in str(error)) == (NotFoundError, True)
    (tmp_path / "empty").mkdir()
    assert type(refused(box, models, tmp_path / "empty", Wish("mine"))) is MalformedError
    monkeypatch.setattr("appliance.bundle.take.intake.free_bytes", lambda _: 1000)
    error = refused(box, models, gguf, Wish("mine"))
    assert (type(error), error.exit_code) == (NoSpaceError, 24)


def test_what_was_brought_can_be_taken_back(
    box: Node, models: LocalModels, gguf: Path, tmp_path: Path
) -> None:
    other = write_small_llama(tmp_path / "other-Q8_0.gguf", b"\1" * 99)
    for version in ("1", "2"):
        models.add(gguf, Wish("mine", version), "a test")
        models.add(other, Wish("mine", version), "a test")
    gone = models.remove("mine", "1", "Q8_0", "a test")
    assert [found.path for found in gone] == ["local/mine/1/Q8_0"]
    assert audit(box)[-1]["kind"] == "model-remove"
    assert len(names(box)) == len(local.listed(box.state)) == 3
    assert len(models.remove("mine", None, None, "a test")) == 3
    assert names(box) == []
    assert local.listed(box.state) == {}
    with pytest.raises(NotFoundError):
        models.remove("mine", None, None, "a test")
    assert models.add(gguf, Wish("mine", "1"), "a test").version == "1"


def test_what_a_bundle_brought_is_not_taken_back(
    box: Node, models: LocalModels, signer: Signer, tmp_path: Path
) -> None:
    box.importer.run(Draft(name="small").write(tmp_path / "b", signer), "a test")
    with pytest.raises(NotFoundError):
        models.remove("small", None, None, "a test")
    assert names(box) == ["small:1.0.0-Q4_0"]


def test_a_crash_between_the_list_and_the_catalogue_is_mended_by_adding_again(
    box: Node, models: LocalModels, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "record", killed)
        with pytest.raises(KilledError):
            models.add(gguf, Wish("mine"), "a test")
    assert names(box) == []
    assert models.add(gguf, Wish("mine"), "a test") == row(box)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("a-Q4_K_M.gguf", "Q4_K_M"), ("a.q8_0.gguf", "Q8_0"), ("a-IQ3_XXS.gguf", "IQ3_XXS"),
        ("A-BF16-00001-of-00002.gguf", "BF16"), ("gpt-mxfp4.gguf", "MXFP4"), ("q.gguf", "default"),
        ("aQ4_0.gguf", "default"), ("model.safetensors", "default"),
    ],
)  # fmt: skip
def test_a_file_s_name_may_say_which_variant_it_is(name: str, variant: str) -> None:
    assert guessed_variant(Path("/x") / name) == variant


def test_a_full_audit_log_stops_it(box: Node, models: LocalModels, gguf: Path) -> None:
    box.ledger.record(partial(budgets.begin, limits={Stream.AUDIT: 100})).result()
    box.ledger.note(Fact(Stream.AUDIT, "apply", "", {"text": "x" * 100})).result()
    with pytest.raises(NoSpaceError, match="the audit log holds"):
        models.add(gguf, Wish("mine"), "a test")
    assert box.ledger.read(catalog.variants) == []
