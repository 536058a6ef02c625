"""A node takes only its own certificate, keeps the old until then, and asks again in time."""

import asyncio
import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import (
    ApplianceError,
    CorruptError,
    ExpiredError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
    ReplayError,
    ScopeError,
    SignatureError,
)
from appliance.hub.api import HubApi
from appliance.hub.authority import renew_authority
from appliance.kit.clock import rfc3339
from appliance.kit.loop import Again
from appliance.ledger import meta
from appliance.node import enrolment
from appliance.node.enrolment import Renewal, hub_authorities, hub_url, node_tls
from appliance.trust import dsse
from appliance.trust.certificates import Chain, FileTlsKey
from tests.helpers.enrolling import LIFE, Machine, Office
from tests.helpers.web import serving

DAY = 86400


class Site:
    """A hub that has admitted a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.office = Office(folder / "hub")
        self.clock = self.office.clock
        self.machine = Machine(folder / "machine", self.clock)
        self.office.admit(self.machine)

    @property
    def certificates(self) -> enrolment.Certificates:
        return self.machine.certificates

    def chain(self) -> bytes:
        """Return what the hub answers now."""
        return self.office.answer(self.certificates.request())

    def enrol(self) -> None:
        self.machine.name_authorities(self.office.authority.pem)
        self.certificates.take(self.chain())

    def refusal(self, data: bytes, authority: str = "") -> type[ApplianceError]:
        before = node_tls(self.machine.folder)
        with pytest.raises(ApplianceError) as caught:
            self.certificates.take(data, authority=authority)
        assert node_tls(self.machine.folder) == before
        return type(caught.value)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.office.close()
    made.machine.close()


def test_a_certificate_is_taken_kept_and_told_of(site: Site) -> None:
    assert node_tls(site.machine.folder) is None
    site.machine.name_authorities(site.office.authority.pem)
    chain = site.chain()
    taken = site.certificates.take(chain)
    found = node_tls(site.machine.folder)
    assert found is not None
    assert found[0].read_bytes() == chain
    assert found[1].stat().st_mode & 0o777 == 0o600
    assert taken.expires == rfc3339(site.clock.utc() + LIFE)
    assert site.machine.audit() == [
        ("certificate-taken", {"serial": taken.serial, "expires": taken.expires})
    ]
    assert not site.certificates.take(chain).news
    assert len(site.machine.audit()) == 1


def test_without_a_word_of_whose_certificates_count_none_is_taken(site: Site) -> None:
    assert site.refusal(site.chain()) is NotFoundError
    assert site.refusal(site.chain(), "00" * 32) is ScopeError
    site.certificates.take(site.chain(), authority=site.office.authority.hash.upper())
    assert hub_authorities(site.machine.folder) == (site.office.authority.pem,)
    assert site.certificates.authorities() == (site.office.authority.pem,)


def test_what_offline_keys_name_counts_more_than_what_a_token_says(
    site: Site, tmp_path: Path
) -> None:
    other = Office(tmp_path / "other")
    other.close()
    site.machine.name_authorities(other.authority.pem)
    assert site.refusal(site.chain(), site.office.authority.hash) is SignatureError
    site.machine.name_authorities(other.authority.pem, site.office.authority.pem, epoch=2)
    assert site.certificates.take(site.chain()).news


def test_the_certificate_of_another_node_or_key_is_refused_and_noted(
    site: Site, tmp_path: Path
) -> None:
    site.enrol()
    kept = site.machine.chain().pem
    other = Machine(tmp_path / "other", site.clock, "box-2")
    site.office.admit(other)
    assert site.refusal(site.office.answer(other.certificates.request())) is ScopeError
    assert site.refusal(b"junk") is MalformedError
    for _ in range(3):
        site.refusal(b"junk")
    kinds = [body["code"] for kind, body in site.machine.audit() if kind == "certificate-refused"]
    assert kinds == ["scope", "malformed"], "each once: who reaches the broker must not fill us"
    assert site.machine.chain().pem == kept
    other.close()


def test_a_certificate_that_has_ended_is_refused_by_proven_time(site: Site) -> None:
    site.machine.name_authorities(site.office.authority.pem)
    chain = site.chain()
    site.clock.move(100 * DAY)
    assert site.refusal(chain) is ExpiredError


def test_an_older_certificate_does_not_come_back(site: Site) -> None:
    site.enrol()
    first = site.machine.chain().pem
    site.clock.move(76 * DAY)
    site.certificates.take(site.chain())
    newer = site.machine.chain().pem
    assert newer != first
    assert site.refusal(first) is ReplayError
    assert site.machine.chain().pem == newer


def test_it_is_due_at_three_quarters_and_never_before_a_first_one(site: Site) -> None:
    assert not site.certificates.is_due()
    site.enrol()
    site.clock.move(74 * DAY)
    assert not site.certificates.is_due()
    site.clock.move(1 * DAY)
    assert site.certificates.is_due()
    assert not site.certificates.has_ended()
    site.clock.move(25 * DAY)
    assert site.certificates.has_ended()


def test_another_authority_makes_it_due_at_once(site: Site, tmp_path: Path) -> None:
    site.enrol()
    other = Office(tmp_path / "other", site.clock)
    site.machine.name_authorities(other.authority.pem, epoch=2)
    assert site.certificates.is_due()
    other.admit(site.machine)
    site.certificates.take(other.answer(site.certificates.request()))
    assert not site.certificates.is_due()
    other.close()


@pytest.mark.parametrize("year", [1970, 2038])
def test_a_lost_clock_neither_ends_nor_hinders_it(site: Site, year: int) -> None:
    """Now is the floor then: what the hub says with a later date is taken all the same."""
    site.enrol()
    first = site.machine.chain().serial
    right = site.clock.time
    site.clock.time = datetime.datetime(year, 1, 19, 3, 14, 8, tzinfo=datetime.UTC)
    assert not site.certificates.has_ended()
    assert not site.certificates.is_due()
    request = site.certificates.request()
    site.clock.time = right + datetime.timedelta(days=90)
    chain = site.office.answer(request)
    site.clock.time = datetime.datetime(year, 1, 19, 3, 14, 8, tzinfo=datetime.UTC)
    assert site.certificates.take(chain).serial != first


def test_a_floor_above_its_end_says_that_it_has_ended(site: Site) -> None:
    site.enrol()
    later = site.clock.utc() + LIFE
    site.machine.ledger.record(lambda db: _sign(db, later)).result()
    assert site.certificates.has_ended()


def _sign(db: sqlite3.Connection, at: datetime.datetime) -> None:
    meta.add_floor_row(db, "key", at, online=False)


@pytest.mark.parametrize("harm", ["no key", "another key", "damaged chain"])
def test_what_is_lost_of_it_is_asked_for_again(site: Site, harm: str) -> None:
    site.enrol()
    first = site.machine.chain().serial
    folder = site.machine.folder / "identity"
    if harm == "no key":
        (folder / "tls-key.pem").unlink()
    elif harm == "another key":
        FileTlsKey.create(folder / "tls-key.pem")
    else:
        (folder / "tls.pem").write_bytes(b"\0" * 100)
    assert site.certificates.is_due()
    assert site.certificates.status()["certificate"] is None
    assert site.certificates.take(site.chain()).news or harm == "damaged chain"
    assert (site.machine.chain().serial == first) is (harm == "damaged chain")
    assert not site.certificates.is_due()


def test_the_same_question_is_asked_for_an_hour(site: Site) -> None:
    first = site.certificates.request()
    site.clock.move(3599)
    assert site.certificates.request() == first
    site.clock.move(2)
    assert site.certificates.request() != first


def test_a_stick_carries_question_and_answer(site: Site, tmp_path: Path) -> None:
    site.machine.name_authorities(site.office.authority.pem)
    stick = tmp_path / "stick"
    with pytest.raises(NotFoundError):
        site.certificates.export(stick)
    stick.mkdir()
    site.certificates.export(stick)
    data = (stick / "up" / "box-1" / "csr.json").read_bytes()
    assert dsse.unverified(data, what="it")["node"] == "box-1"
    with pytest.raises(NotFoundError):
        site.certificates.take_folder(stick)
    answer = stick / "dn" / "box-1" / "cert.pem"
    answer.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere.pem"
    elsewhere.write_bytes(site.office.answer(data))
    answer.symlink_to(elsewhere)
    with pytest.raises((NotFoundError, CorruptError)):
        site.certificates.take_folder(stick)
    answer.unlink()
    answer.write_bytes(elsewhere.read_bytes())
    assert site.certificates.take_folder(stick).news
    assert not site.certificates.take_folder(stick).news


# --- renewal by itself ----------------------------------------------------------------------------


def look(site: Site, said: list[bytes], *, is_up: bool = True) -> Again | None:
    def say(request: bytes) -> bool:
        if is_up:
            said.append(request)
        return is_up

    return asyncio.run(Renewal(site.certificates, site.machine.folder, say).look())


def test_renewal_asks_over_the_broker_when_it_is_due_and_not_before(site: Site) -> None:
    said: list[bytes] = []
    look(site, said)
    site.enrol()
    look(site, said)
    assert said == []
    site.clock.move(80 * DAY)
    look(site, said)
    look(site, said)
    assert len(said) == 2
    assert said[0] == said[1] == site.certificates.request()
    assert site.certificates.take(site.office.answer(said[0])).news
    look(site, said)
    assert len(said) == 2


def test_renewal_goes_to_the_hub_itself_when_the_broker_would_turn_us_away(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def post(url: str, request: bytes, _: object) -> bytes:
        asked.append(url)
        answer = asyncio.run(site.office.enrolment.answer(request))
        return str(answer["chain"]).encode()

    monkeypatch.setattr(enrolment, "asked_over_http", post)
    site.enrol()
    first = site.machine.chain().serial
    site.certificates.remember_hub("http://hub:8090")
    assert hub_url(site.machine.folder) == "http://hub:8090"
    look(site, [], is_up=False)
    site.clock.move(105 * DAY)
    look(site, [], is_up=True)
    assert asked == []
    look(site, [], is_up=False)
    assert asked == ["http://hub:8090"]
    assert site.machine.chain().serial != first


def test_a_node_that_cannot_know_the_time_asks_and_keeps_what_is_fresh(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is lost, and the broker turns it away: maybe because its certificate has ended."""
    site.enrol()
    first, right = site.machine.chain().pem, site.clock.time
    site.certificates.remember_hub("http://hub:8090")

    def post(_: str, request: bytes, __: object) -> bytes:
        """Answer as a hub whose clock is right."""
        lost, site.clock.time = site.clock.time, right
        try:
            answer = asyncio.run(site.office.enrolment.answer(request))
            return str(answer["chain"]).encode()
        finally:
            site.clock.time = lost

    monkeypatch.setattr(enrolment, "asked_over_http", post)
    site.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    look(site, [], is_up=False)
    assert site.machine.chain().pem == first
    right += datetime.timedelta(days=120)
    look(site, [], is_up=False)
    assert site.machine.chain().pem != first


def test_a_node_whose_authority_a_bundle_ended_asks_the_hub_within_half_a_minute(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is down then: neither the broker nor the node takes what the other shows."""
    site.enrol()
    first = site.machine.chain().serial
    site.certificates.remember_hub("http://hub:8090")
    hub_is_there = False

    def post(_: str, request: bytes, __: object) -> bytes:
        if not hub_is_there:
            raise PeerUnreachableError("the hub does not answer")
        return site.office.answer(request)

    monkeypatch.setattr(enrolment, "asked_over_http", post)
    again = look(site, [], is_up=False)
    assert again is not None
    assert again.after_s <= 30
    assert site.machine.chain().serial == first, "while its authority counts nothing is asked"
    new = renew_authority(site.office.folder, "acme", site.clock.utc())
    site.machine.name_authorities(new.pem, epoch=2)
    again = look(site, [], is_up=False)
    assert again is not None
    assert again.after_s <= 60, "a hub that does not answer is asked again soon"
    hub_is_there = True
    assert look(site, [], is_up=False) is None
    assert site.machine.chain().serial != first
    assert site.certificates.tls().ca == (new.pem,)
    assert not site.certificates.is_due()


def test_an_authority_that_is_damaged_here_has_to_be_named_again(site: Site) -> None:
    site.certificates.take(site.chain(), authority=site.office.authority.hash)
    assert site.certificates.authorities() == (site.office.authority.pem,)
    (site.machine.folder / "identity" / "hub-ca.pem").write_bytes(b"\xff")
    assert site.certificates.authorities() == ()
    with pytest.raises(NotFoundError) as refused:
        site.certificates.take(site.chain())
    assert "--ca HASH" in str(refused.value.hint)
    site.certificates.take(site.chain(), authority=site.office.authority.hash)
    assert site.certificates.authorities() == (site.office.authority.pem,)


@pytest.mark.parametrize(("data", "why"), [(b"", "is empty"), (b"junk", "is damaged")])
def test_a_certificate_that_is_damaged_on_the_stick_is_said_in_words(
    site: Site, tmp_path: Path, data: bytes, why: str
) -> None:
    site.machine.name_authorities(site.office.authority.pem)
    path = tmp_path / "stick" / "dn" / "box-1" / "cert.pem"
    path.parent.mkdir(parents=True)
    good = site.chain()
    for found in (data, good[: len(good) // 3] if data else b"\n"):
        path.write_bytes(found)
        with pytest.raises(MalformedError) as refused:
            site.certificates.take_folder(tmp_path / "stick")
        said = refused.value.what
        assert said.startswith(f"{path} is not a chain of certificates in PEM: it {why}")
        assert not {"cryptography", "ParseError", "http"} & set(said.replace(".", " ").split())
        assert "hub enrol import" in str(refused.value.hint)


def test_a_hub_that_does_not_answer_ends_nothing(site: Site) -> None:
    site.enrol()
    site.certificates.remember_hub("http://127.0.0.1:1")
    site.clock.move(105 * DAY)
    kept = site.machine.chain().pem
    look(site, [], is_up=False)
    assert site.machine.chain().pem == kept
    with pytest.raises(PeerUnreachableError):
        enrolment.asked_over_http("http://127.0.0.1:1", site.certificates.request())


def test_over_http_with_a_token_nothing_but_the_token_is_needed(site: Site, tmp_path: Path) -> None:
    new = Machine(tmp_path / "new", site.clock, "box-2")
    token = site.office.token("box-2")
    hub = site.office.hub
    api = HubApi(
        hub.db, hub.service, hub.clock, "the token", 30.0, loopback=False,
        enrolment=site.office.enrolment,
    )  # fmt: skip

    async def story() -> bytes:
        async with serving(api.app()) as port:
            url = f"http://127.0.0.1:{port}"
            return await asyncio.to_thread(
                enrolment.asked_over_http, url, new.certificates.request(token)
            )

    chain = asyncio.run(story())
    assert new.certificates.take(chain, authority=token.authority).news
    assert Chain.parse(chain).serial == new.chain().serial
    new.close()
