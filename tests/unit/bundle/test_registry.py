"""Registries: where in one a bundle is, who we are there, what it may not make us believe."""

import base64
import datetime
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.make.push import Pusher
from appliance.bundle.media.registry import Reference, login_for
from appliance.bundle.media.registry_medium import (
    BUNDLE_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    TITLE,
    RegistryMedium,
)
from appliance.core import wire
from appliance.errors import (
    ApplianceError,
    BadDocumentError,
    CorruptError,
    IncompleteError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
    StateUnusableError,
    UsageError,
)
from appliance.kit.weblink import Link, Login, Url
from tests.fakes import web
from tests.fakes.oci_registry import Registry
from tests.fakes.web import Certificate, WebServer
from tests.helpers.signing import Draft, Signer, digest_of

LINK = Link(timeout_s=5, tries=2, sleep=lambda _: None)
ME = Login("me", "secret")
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def folder(tmp_path: Path, signer: Signer) -> Path:
    return Draft().write(tmp_path / "bundle", signer)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def push(registry: Registry, folder: Path, login: Login | None = None) -> Reference:
    reference = Reference.parse(registry.reference())
    Pusher(reference, LINK, login).push(folder)
    return reference


def look(reference: Reference, login: Login | None = None, link: Link = LINK) -> bytes:
    medium = RegistryMedium(reference, link, login=login)
    try:
        medium.reach()
        return medium.read("bundle.json", 1000)
    finally:
        medium.close()


@pytest.mark.parametrize(
    "text",
    [
        "oci://h/fleet/small:1.0",
        "oci+http://[::1]:5000/a:b",
        f"oci://h:5000/a@{DIGEST}",
    ],
)
def test_a_reference_survives_a_round_trip(text: str) -> None:
    assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("oci://h/a", "oci://h/A:1", "https://h/a:1", "oci://h", "oci://h/a/../b:1"),
        *("oci://h/a:b:c", "oci://me:secret@h/a:1", "oci://h/a@sha256:123", "oci://h:port/a:1"),
    ],
)
def test_what_is_none_is_refused_without_showing_a_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("tokens", [False, True])
def test_a_registry_that_asks_who_one_is(folder: Path, *, tokens: bool) -> None:
    with Registry(("me", "secret"), tokens=tokens) as registry:
        reference = push(registry, folder, ME)
        assert look(reference, ME) == (folder / "bundle.json").read_bytes()
        for login in (None, Login("me", "wrong")):
            with pytest.raises(PeerUnreachableError, match="status 40") as caught:
                look(reference, login)
            assert "auth_file" in str(caught.value.hint)
            assert "secret" not in repr((login, caught.value))


def test_a_registry_that_gives_tokens_to_anybody(folder: Path) -> None:
    with Registry(tokens=True) as registry:
        assert look(push(registry, folder))


def test_a_token_that_ended_is_renewed_in_the_middle(folder: Path) -> None:
    with Registry(tokens=True) as registry:
        medium = RegistryMedium(push(registry, folder), LINK)
        assert medium.read("bundle.json", 1000)
        registry.forget_tokens()
        assert medium.read("bundle.json", 1000)
        medium.close()


def test_a_token_is_fetched_only_where_the_registry_may_send_us(folder: Path) -> None:
    with Registry(("me", "secret"), tokens=True) as registry, Registry() as evil:
        reference = push(registry, folder, ME)
        registry.realm = lambda: f"{evil.url}/token"
        with pytest.raises(PeerUnreachableError, match="sends us on to") as caught:
            look(reference, ME)
        assert "network.also_hosts" in str(caught.value.hint)
        assert evil.asked == []
        for realm in ("", "nonsense", "ftp://x/"):
            registry.realm = lambda realm=realm: realm  # type: ignore[misc]
            with pytest.raises(ApplianceError):
                look(reference, ME)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 7}', b'{"token": "a\\nb"}'])
def test_what_is_no_token_is_refused(folder: Path, body: bytes) -> None:
    with Registry(tokens=True) as registry:
        reference = push(registry, folder)
        registry.files["/other"] = body
        registry.realm = lambda: f"{registry.url}/other"
        registry.may = lambda handler: handler.plain == "/other"  # type: ignore[method-assign]
        with pytest.raises(PeerUnreachableError, match="not a token"):
            look(reference)


def test_blobs_on_another_host_come_without_our_token(folder: Path, tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    certificate = Certificate(tmp_path, begins=now, ends=now + datetime.timedelta(days=1))
    data = (folder / "bundle.json").read_bytes()
    with Registry(tokens=True) as registry, WebServer(tls=certificate) as cdn:
        cdn.files["/x"] = data
        reference = push(registry, folder)
        blob = f"/v2/fleet/small/blobs/{digest_of(data)}"
        registry.faults[blob] = [web.answer(307, Location=f"{cdn.url}/x?sig=secret")] * 2
        with pytest.raises(IncompleteError, match="sends us on to https://localhost") as caught:
            look(reference)
        assert "secret" not in str(caught.value)
        allowed = replace(LINK, also_hosts=frozenset({"localhost"}), ca_file=certificate.ca_file)
        assert look(reference, link=allowed) == data
        ((_, _, headers),) = cdn.asked
        assert "Authorization" not in headers
        assert registry.gets(blob)[-1]["Authorization"].startswith("Bearer ")


def test_a_digest_pins(folder: Path, registry: Registry) -> None:
    pushed = Pusher(Reference.parse(registry.reference()), LINK).push(folder)
    pinned = Reference.parse(registry.reference().removesuffix(":1.0.0") + f"@{pushed.digest}")
    assert look(pinned)
    path = f"/v2/fleet/small/manifests/{pushed.digest}"
    registry.files[path] = registry.files[path] + b" "
    with pytest.raises(CorruptError):
        look(pinned)


def test_a_tag_that_moves_during_an_import_does_not_mix_two_bundles(
    folder: Path, registry: Registry, tmp_path: Path, signer: Signer
) -> None:
    medium = RegistryMedium(push(registry, folder), LINK)
    medium.reach()
    push(registry, Draft(name="other").write(tmp_path / "other", signer))
    assert medium.read("bundle.json", 1000) == (folder / "bundle.json").read_bytes()
    medium.close()


def test_what_is_not_there(registry: Registry) -> None:
    reference = Reference.parse(registry.reference())
    with pytest.raises(NotFoundError):
        look(reference)
    medium = RegistryMedium(reference, LINK)
    with pytest.raises(IncompleteError):
        medium.size("bundle.json")
    medium.close()


def layer(**changed: Any) -> dict[str, Any]:
    return {"digest": DIGEST, "size": 1, "annotations": {TITLE: "a"}, **changed}


def manifest(*layers: Any) -> dict[str, Any]:
    return {"mediaType": MANIFEST_TYPE, "artifactType": BUNDLE_TYPE, "layers": list(layers)}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"mediaType": INDEX_TYPE, "manifests": []},
        {"mediaType": INDEX_TYPE, "manifests": [7]},
        {"mediaType": INDEX_TYPE, "manifests": [{"artifactType": BUNDLE_TYPE, "digest": "../x"}]},
        {**manifest(), "artifactType": "image"},
        {**manifest(), "layers": 7},
        manifest(7),
        manifest(layer(size="1")),
        manifest(layer(size=True)),
        manifest(layer(size=-1)),
        manifest(layer(digest="sha256:../../x")),
        manifest(layer(annotations=7)),
        manifest(layer(annotations={TITLE: 7})),
    ],
)
def test_an_index_that_is_none_is_refused(registry: Registry, document: object) -> None:
    registry.files["/v2/fleet/small/manifests/1.0.0"] = wire.dumps(document)
    with pytest.raises(MalformedError):
        look(Reference.parse(registry.reference()))


def test_an_endless_index_is_refused(registry: Registry) -> None:
    registry.faults["/v2/fleet/small/manifests/1.0.0"] = [web.endless_chunks]
    with pytest.raises(MalformedError, match="larger than"):
        look(Reference.parse(registry.reference()))


# --- accounts ------------------------------------------------------------------------------------


def accounts(path: Path, entry: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {"h:5000": entry}}))
    return path


GOOD = {"auth": base64.b64encode(b"me:secret:with:colons").decode()}
HERE = Url.parse("https://h:5000")


def test_accounts_are_those_that_other_tools_logged_in_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert login_for(HERE, None) is None
    accounts(tmp_path / ".docker" / "config.json", GOOD)
    found = login_for(HERE, None)
    assert found == Login("me", "secret:with:colons")
    assert login_for(Url.parse("https://h"), None) is None
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    assert login_for(HERE, None) is None
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    accounts(tmp_path / "run" / "containers" / "auth.json", GOOD)
    assert login_for(HERE, None) == found
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "none.json"))
    assert login_for(HERE, None) is None
    assert login_for(HERE, accounts(tmp_path / "own.json", GOOD)) == found


def test_one_that_only_a_helper_program_knows_is_none(tmp_path: Path) -> None:
    assert login_for(HERE, accounts(tmp_path / "a.json", {})) is None


@pytest.mark.parametrize("entry", [7, {"auth": 7}, {"auth": "!"}, {"auth": "//79"}])
def test_what_is_no_file_of_accounts_is_named(tmp_path: Path, entry: object) -> None:
    with pytest.raises(BadDocumentError, match=r"a\.json"):
        login_for(HERE, accounts(tmp_path / "a.json", entry))


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(StateUnusableError, match=r"none\.json"):
        login_for(HERE, tmp_path / "none.json")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(BadDocumentError, match=r"b\.json"):
        login_for(HERE, tmp_path / "b.json")
