"""What may start: listed under its path, by its digest, and denied by nobody."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from appliance.core.model import Denial, Variant
from appliance.errors import ApplianceError, DowngradeError, RevokedError
from appliance.trust.documents import Revoked
from appliance.trust.listed import Listed
from tests.helpers.models import listing, variant
from tests.helpers.signing import revoked

FOUND = variant()
OWN = variant(model="mine", publisher="local")
LISTED = Listed(listing(FOUND))


def denying(digest: str, *, stop: bool = False) -> Listed:
    return replace(LISTED, revoked=Revoked.parse(revoked(digest, stop=stop)))


def test_paths_are_those_that_were_signed() -> None:
    assert FOUND.path == "models/acme/small/1.0.0/Q4_0"
    assert OWN.path == "local/mine/1.0.0/Q4_0"


def test_what_is_listed_may_start() -> None:
    LISTED.check_variant(FOUND)
    assert LISTED.denied([FOUND]) == {}


@pytest.mark.parametrize(
    ("change", "family"),
    [
        (Listed, DowngradeError),
        (lambda: Listed(listing(variant(version="2.0.0"))), DowngradeError),
        (lambda: Listed({FOUND.path: listing(variant(name="Q8_0")).popitem()[1]}), DowngradeError),
        (lambda: denying(FOUND.manifest), RevokedError),
        (lambda: denying(FOUND.weights), RevokedError),
        (lambda: replace(denying(FOUND.weights), targets={}), RevokedError),
    ],
)
def test_what_is_not_listed_or_revoked_may_not(
    change: Callable[[], Listed], family: type[ApplianceError]
) -> None:
    with pytest.raises(ApplianceError) as caught:
        change().check_variant(FOUND)
    assert type(caught.value) is family


def test_a_denial_says_why_and_whether_to_stop() -> None:
    def only(listed: Listed, found: Variant = FOUND) -> Denial:
        return listed.denied([found])[found.manifest]

    assert only(Listed()).reason == "NotListed"
    assert not only(Listed()).stop
    for digest in (FOUND.manifest, FOUND.weights):
        assert only(denying(digest)).reason == "Revoked"
        assert not only(denying(digest)).stop
        assert only(denying(digest, stop=True)).stop


def test_a_site_lists_only_what_lies_below_local() -> None:
    with pytest.raises(DowngradeError):
        LISTED.check_variant(OWN)
    stolen = listing(variant(manifest=OWN.manifest))
    whole = LISTED.with_local({**listing(OWN), **stolen})
    whole.check_variant(OWN)
    whole.check_variant(FOUND)
    with pytest.raises(DowngradeError):
        whole.check_variant(variant(manifest=OWN.manifest))
