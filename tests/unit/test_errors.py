"""Codes and exit statuses are part of the interface: scripts and other releases rely on them."""

import json

import pytest

from appliance import errors
from appliance.errors import ApplianceError, RefusedError

CODES = {
    1: "failed", 2: "usage", 3: "bad-document", 4: "address-busy", 5: "engine",
    6: "state-unusable", 7: "peer-unreachable", 8: "locked", 9: "not-found",
    10: "forbidden", 11: "conflict",
    20: "signature", 21: "expired", 22: "downgrade", 23: "incomplete", 24: "no-space",
    25: "does-not-fit", 26: "corrupt", 27: "malformed", 28: "scope", 29: "revoked", 30: "replay",
    31: "equivocation",
}  # fmt: skip


def test_codes_and_exit_statuses_are_the_published_ones() -> None:
    assert {family.exit_code: family.code for family in errors.families()} == CODES


def test_what_trust_forbids_is_a_refusal_and_what_is_only_missing_is_not() -> None:
    refused = {f.exit_code for f in errors.families() if issubclass(f, RefusedError)}
    assert refused == {20, 21, 22, 23, 26, 27, 28, 29, 30, 31}


@pytest.mark.parametrize("family", errors.families())
@pytest.mark.parametrize("hint", [None, "do this"])
def test_an_error_survives_the_wire(family: type[ApplianceError], hint: str | None) -> None:
    error = family("it is broken", hint=hint)
    found = errors.from_wire(json.loads(json.dumps(error.to_wire())))
    assert (type(found), str(found), found.what, found.hint) == (
        family, "it is broken", "it is broken", hint,
    )  # fmt: skip


@pytest.mark.parametrize("wire", [{}, {"code": "of-a-later-release"}, {"code": ["signature"]}])
def test_an_error_that_nobody_knows_is_still_an_error(wire: dict[str, object]) -> None:
    assert type(errors.from_wire({**wire, "what": "new"})) is ApplianceError


def test_an_error_in_another_error_s_family_keeps_its_code() -> None:
    class RareError(errors.LockedError):
        """A rare subclass beside the code that raises it."""

    assert RareError("x").to_wire()["code"] == "locked"
    assert len(errors.families()) == len(CODES)
