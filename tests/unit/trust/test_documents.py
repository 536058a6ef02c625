"""Director, hub and revocations: read strictly, because half a document is worse than none."""

from typing import Any

import pytest

from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import MalformedError, RevokedError
from appliance.trust.documents import (
    DIRECTOR_PATH,
    HUB_PATH,
    PARSERS,
    REVOKED_PATH,
    Director,
    HubAuthority,
    Revoked,
)
from tests.helpers.signing import authority, director, hub, revoked

DIGEST = Digest("sha256:" + "ab" * 32)
GOOD = {DIRECTOR_PATH: director(), HUB_PATH: hub(), REVOKED_PATH: revoked(DIGEST)}
ENTRY = {"digest": DIGEST, "why": "it leaks", "stop": True}


def changed(path: str, **fields: Any) -> bytes:
    return wire.dumps({**wire.loads(GOOD[path], what=path), **fields})


def test_what_is_right_is_read() -> None:
    who = Director.parse(director(4))
    assert (who.kind, who.org, who.epoch, set(who.keys)) == ("director", "acme", 4, {"aa" * 32})
    assert (who.sync_keys, who.sites, who.verbs) == (frozenset(["bb" * 32]), ("*",), ())
    assert HubAuthority.parse(hub(2)) == HubAuthority("acme", 2, (authority(),))
    found = Revoked.parse(changed(REVOKED_PATH, digests=[ENTRY], more="of a later release"))
    assert (found.digests[DIGEST].why, found.digests[DIGEST].stop) == ("it leaks", True)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    "fields",
    [
        {"org": None},
        {"org": ""},
        {"org": "Not A Name"},
        {"epoch": "1"},
        {"epoch": None},
        {"epoch": True},
        {"epoch": 1.0},
        {"epoch": -1},
    ],
)
def test_each_names_its_organisation_and_an_epoch(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        PARSERS[path](changed(path, **fields))


@pytest.mark.parametrize("path", GOOD)
def test_every_field_is_there_and_the_json_is_strict(path: str) -> None:
    whole = wire.loads(GOOD[path], what=path)
    PARSERS[path](GOOD[path])
    for name in whole:
        with pytest.raises(MalformedError):
            PARSERS[path](wire.dumps({k: v for k, v in whole.items() if k != name}))
    for junk in (b"", b"[]", b"null", GOOD[path][:-1], GOOD[path][:-1] + b',"org":"acme"}'):
        with pytest.raises(MalformedError):
            PARSERS[path](junk)


@pytest.mark.parametrize(
    "fields",
    [
        {"keys": []},
        {"sync": []},
        {"keys": ["AA" * 32]},
        {"keys": "aa"},
        {"keys": None},
        {"sync": [1]},
        {"sync": ["aa" * 32]},
        {"keys": ["aa" * 32, "bb" * 32]},
        {"sites": "*"},
        {"sites": [1]},
        {"verbs": {}},
    ],
)
def test_a_director_has_keys_and_sync_has_others(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        Director.parse(changed(DIRECTOR_PATH, **fields))


@pytest.mark.parametrize(
    "ca",
    [
        [],
        "text",
        [1],
        [""],
        ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
        [authority() * 2],
        ["preamble\n" + authority()],
    ],
)
def test_an_authority_is_one_certificate(ca: object) -> None:
    with pytest.raises(MalformedError):
        HubAuthority.parse(changed(HUB_PATH, ca=ca))


@pytest.mark.parametrize(
    "digests",
    [
        {},
        [DIGEST],
        [{**ENTRY, "digest": "sha256:"}],
        [{**ENTRY, "digest": None}],
        [{**ENTRY, "digest": "sha512:" + "ab" * 64}],
        [{**ENTRY, "why": None}],
        [{**ENTRY, "why": "x" * 501}],
        [{**ENTRY, "stop": 1}],
        [{k: v for k, v in ENTRY.items() if k != "stop"}],
        [ENTRY, ENTRY],
    ],
)
def test_half_a_list_of_revocations_is_none(digests: object) -> None:
    with pytest.raises(MalformedError):
        Revoked.parse(changed(REVOKED_PATH, digests=digests))


def test_what_is_revoked_says_why() -> None:
    Revoked().check(DIGEST, "a model")
    with pytest.raises(RevokedError, match="a model is revoked: it leaks"):
        Revoked.parse(revoked(DIGEST)).check(DIGEST, "a model")
