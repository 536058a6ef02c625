"""Files from a model hub and from a registry: against stand-ins, for no real one can be reached."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bundle.make import images
from appliance.bundle.make.sources import Fetcher, describe
from appliance.core import wire
from appliance.core.definitions import (
    HuggingfaceSource,
    ImageSource,
    LockedImage,
    LockedSource,
    RegistrySource,
    Source,
)
from appliance.errors import (
    BadDocumentError,
    CorruptError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
    UsageError,
)
from tests.fakes.hub import COMMIT, FakeHub
from tests.fakes.registry import MANIFEST_TYPE, FakeRegistry
from tests.helpers.images import write_image
from tests.helpers.signing import digest_of

DATA = b"weights from afar"
HUB = Source(huggingface=HuggingfaceSource(repo="acme/small", file="sub/w.gguf"))


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "cache", tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    fake = FakeHub()
    fake.files["acme/small", "sub/w.gguf"] = DATA
    with fake.serving() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield fake


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    fake = FakeRegistry(token="let me in")
    with fake.serving():
        yield fake


def put_artefact(registry: FakeRegistry, data: bytes = DATA) -> str:
    layer = {"mediaType": "application/vnd.cncf.model.weight.v1.raw", "size": len(data),
             "digest": registry.put_blob(data),
             "annotations": {"org.cncf.model.filepath": "w.gguf"}}  # fmt: skip
    config = {"mediaType": "a/b", "digest": registry.put_blob(b"{}"), "size": 2}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config,
                "layers": [layer]}  # fmt: skip
    return registry.put_manifest("acme/small", wire.dumps(manifest), "1.0")


def of_registry(registry: FakeRegistry, file: str = "w.gguf", which: str = ":1.0") -> Source:
    reference = f"{registry.host}/acme/small{which}"
    return Source(oci=RegistrySource(reference=reference, file=file))


def test_a_file_of_a_hub_is_locked_by_commit(fetcher: Fetcher, hub: FakeHub) -> None:
    found = fetcher.fetch(HUB)
    assert (found.name, found.digest, found.revision) == ("w.gguf", digest_of(DATA), COMMIT)
    assert describe(HUB) == "huggingface acme/small@main: sub/w.gguf"
    asked = len(hub.requests)
    locked = LockedSource(source=HUB, digest=digest_of(DATA), size=1, revision=COMMIT)
    assert fetcher.fetch(HUB, locked) == found
    assert len(hub.requests) == asked
    found.path.unlink()
    assert fetcher.fetch(HUB, locked) == found
    assert not any("/main/" in request for request in hub.requests[asked:])


def test_what_a_hub_has_not_is_named(fetcher: Fetcher, hub: FakeHub) -> None:
    for repo, revision, file in (
        ("acme/small", "main", "other.gguf"),
        ("acme/other", "main", "sub/w.gguf"),
        ("acme/small", "dev", "sub/w.gguf"),
    ):
        source = HuggingfaceSource(repo=repo, revision=revision, file=file)
        with pytest.raises(NotFoundError, match="does not show it"):
            fetcher.fetch(Source(huggingface=source))
    hub.commit = "unknown"
    with pytest.raises(PeerUnreachableError, match="does not say of which commit"):
        fetcher.fetch(HUB)
    assert not list(fetcher.cache.glob("fetch-*"))


def test_a_hub_that_gives_something_else_is_found_out(fetcher: Fetcher, hub: FakeHub) -> None:
    hub.files["acme/small", "sub/w.gguf"] = b"replaced, under the same commit"
    locked = LockedSource(source=HUB, digest=digest_of(DATA), size=1, revision=COMMIT)
    with pytest.raises(CorruptError, match="the lock says"):
        fetcher.fetch(HUB, locked)


def test_without_the_library_it_says_what_to_install(
    fetcher: Fetcher, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UsageError) as caught:
        fetcher.fetch(HUB)
    assert caught.value.hint == "pip install 'edge-ai-appliance[huggingface]'"
    monkeypatch.setitem(__import__("sys").modules, "oras.provider", None)
    with pytest.raises(UsageError) as caught:
        fetcher.fetch(of_registry(registry))
    assert caught.value.hint == "pip install 'edge-ai-appliance[oras]'"


def test_a_file_of_an_artefact_is_locked_by_its_manifest(
    fetcher: Fetcher, registry: FakeRegistry
) -> None:
    manifest = put_artefact(registry)
    source = of_registry(registry)
    found = fetcher.fetch(source)
    assert (found.name, found.digest, found.revision) == ("w.gguf", digest_of(DATA), manifest)
    put_artefact(registry, b"what the tag names by now")
    found.path.unlink()
    locked = LockedSource(source=source, digest=digest_of(DATA), size=1, revision=manifest)
    assert fetcher.fetch(source, locked) == found
    assert fetcher.fetch(of_registry(registry, which=f"@{manifest}")).digest == digest_of(DATA)


def test_a_registry_that_lies_is_found_out(fetcher: Fetcher, registry: FakeRegistry) -> None:
    manifest = put_artefact(registry)
    registry.blobs[digest_of(DATA)] = b"other bytes, as it is"
    with pytest.raises(CorruptError, match="gave other bytes"):
        fetcher.fetch(of_registry(registry))
    registry.blobs[digest_of(DATA)] = DATA + b" and more"
    with pytest.raises(CorruptError, match="gave other bytes"):
        fetcher.fetch(of_registry(registry))
    registry.blobs[digest_of(DATA)] = DATA
    kind, data = registry.manifests["acme/small", manifest]
    registry.manifests["acme/small", manifest] = kind, data + b" "
    with pytest.raises(CorruptError, match="gave other bytes"):
        fetcher.fetch(of_registry(registry, which=f"@{manifest}"))
    source = of_registry(registry)
    locked = LockedSource(source=source, digest=digest_of(DATA), size=1, revision=manifest)
    with pytest.raises(CorruptError, match="gave other bytes"):
        fetcher.fetch(source, locked)


def test_a_cut_link_is_said_as_such(fetcher: Fetcher, registry: FakeRegistry) -> None:
    put_artefact(registry)
    registry.cuts[digest_of(DATA)] = 3
    with pytest.raises(PeerUnreachableError, match="does not answer"):
        fetcher.fetch(of_registry(registry))
    assert fetcher.fetch(of_registry(registry)).digest == digest_of(DATA)


def test_what_a_registry_has_not_is_named(fetcher: Fetcher, registry: FakeRegistry) -> None:
    with pytest.raises(NotFoundError, match="does not hold"):
        fetcher.fetch(of_registry(registry))
    put_artefact(registry)
    with pytest.raises(BadDocumentError, match=r"holds no other\.gguf"):
        fetcher.fetch(of_registry(registry, file="other.gguf"))
    registry.blobs.pop(digest_of(DATA))
    with pytest.raises(NotFoundError, match=digest_of(DATA)):
        fetcher.fetch(of_registry(registry))
    registry.manifests["acme/small", "1.0"] = "text/plain", b"x" * (5 << 20)
    with pytest.raises(MalformedError, match="too large"):
        fetcher.fetch(of_registry(registry))


def test_nobody_at_the_registry_s_address(fetcher: Fetcher) -> None:
    source = Source(oci=RegistrySource(reference="127.0.0.1:9/acme/small:1", file="w.gguf"))
    with pytest.raises(PeerUnreachableError, match="does not answer"):
        fetcher.fetch(source)


def test_images_of_a_layout_are_chosen_by_name_and_platform(tmp_path: Path) -> None:
    digest = write_image(tmp_path / "several", "it:1.0", index=True)
    source = ImageSource(layout="several", reference="it:1.0")
    found = images.fetch(source, tmp_path, tmp_path / "cache")
    assert found.digest == digest
    assert found.size == len(found.manifest) + sum(p.stat().st_size for p in found.paths.values())
    other = images.fetch(
        ImageSource(layout="several", platform="linux/arm64"), tmp_path, tmp_path / "cache"
    )
    assert other.digest != digest
    for wrong in (
        ImageSource(layout="several", platform="linux/s390x"),
        ImageSource(layout="several", reference="other"),
        ImageSource(layout="nowhere"),
    ):
        with pytest.raises(NotFoundError):
            images.fetch(wrong, tmp_path, tmp_path / "cache")


def test_a_damaged_copy_of_a_blob_is_fetched_again(tmp_path: Path) -> None:
    write_image(tmp_path / "image")
    source = ImageSource(layout="image")
    found = images.fetch(source, tmp_path, tmp_path / "cache")
    path = next(iter(found.paths.values()))
    good = path.read_bytes()
    path.write_bytes(b"damaged")
    locked = LockedImage(source=source, digest=found.digest, size=found.size)
    assert images.fetch(source, tmp_path, tmp_path / "cache", locked) == found
    assert path.read_bytes() == good


def test_a_layout_whose_layer_is_another_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "image")
    blobs = (tmp_path / "image" / "blobs" / "sha256").iterdir()
    (layer,) = [path for path in blobs if path.read_bytes().startswith(b"\x1f\x8b")]
    layer.write_bytes(b"another layer")
    with pytest.raises(CorruptError, match="holds other bytes"):
        images.fetch(ImageSource(layout="image"), tmp_path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("fetch-*"))


def test_an_image_in_docker_s_own_format_is_refused_with_the_way_out(
    tmp_path: Path, registry: FakeRegistry
) -> None:
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {}, "layers": [gzip.compress(b"").hex()],
    }  # fmt: skip
    registry.put_manifest("acme/it", wire.dumps(manifest), "1")
    with pytest.raises(MalformedError) as caught:
        images.fetch(ImageSource(oci=f"{registry.host}/acme/it:1"), tmp_path, tmp_path / "cache")
    assert "skopeo copy --format oci" in (caught.value.hint or "")
