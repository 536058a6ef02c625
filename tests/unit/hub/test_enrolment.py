"""The hub issues to whom a person let in, renews for their keys, and forgets whom it revoked."""

import asyncio
import dataclasses
import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import (
    ApplianceError,
    ExpiredError,
    MalformedError,
    NotFoundError,
    ReplayError,
    RevokedError,
    ScopeError,
    SignatureError,
    UsageError,
)
from appliance.hub import receipts, roster, store
from appliance.hub.authority import HUB_NAME, Authority, hub_tls
from appliance.hub.view import State, view
from appliance.node.enrolment import Certificates
from appliance.node.identity import NodeIdentity
from appliance.trust import dsse
from appliance.trust.certificates import Chain, FileTlsKey
from appliance.trust.enrolment import EnrolmentToken
from appliance.trust.envelope import Slot
from tests.helpers.enrolling import HOUR, LIFE, Machine, Office
from tests.helpers.models import deployment
from tests.helpers.signing import new_key

DAY = datetime.timedelta(days=1)


@dataclasses.dataclass
class Two:
    """A hub, and a machine that wants to be its node."""

    office: Office
    machine: Machine
    folder: Path

    def other(self, name: str = "box-1") -> Machine:
        number = len(list(self.folder.glob("machine-*")))
        made = Machine(self.folder / f"machine-{number}", self.machine.clock, name)
        self.extra.append(made)
        return made

    extra: list[Machine] = dataclasses.field(default_factory=list)

    def refusal(self, request: bytes) -> type[ApplianceError] | None:
        try:
            self.office.answer(request)
        except ApplianceError as error:
            return type(error)
        return None

    def pass_days(self, days: float) -> None:
        self.office.clock.move(days * 86400)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    office = Office(tmp_path / "hub")
    made = Two(office, Machine(tmp_path / "machine-0", office.clock), tmp_path)
    yield made
    office.close()
    for machine in (made.machine, *made.extra):
        machine.close()


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_makes_a_machine_a_node(two: Two) -> None:
    token = two.office.token()
    chain = two.office.answer(two.machine.certificates.request(token))
    row = two.office.row()
    assert row is not None
    assert (row.key, row.site) == (two.machine.identity.key.public, "hall 4")
    taken = two.machine.certificates.take(chain, authority=token.authority)
    assert taken.news
    assert two.machine.chain().own.subject.rfc4514_string() == "CN=box-1"


def test_a_token_is_used_once_but_its_answer_may_be_fetched_again(two: Two) -> None:
    token = two.office.token()
    request = two.machine.certificates.request(token)
    first = two.office.answer(request)
    assert two.office.answer(request) == first
    again = two.machine.certificates.request(token)
    assert again != request
    assert two.office.answer(again) == first
    assert two.refusal(two.other().certificates.request(token)) is ReplayError


def test_a_token_ends(two: Two) -> None:
    token = two.office.token(life=HOUR)
    two.office.clock.move(3600)
    assert two.refusal(two.machine.certificates.request(token)) is ExpiredError
    assert two.office.row() is None


def test_a_token_is_for_one_name(two: Two) -> None:
    token = two.office.token("box-2")
    assert two.refusal(two.machine.certificates.request(token)) is ScopeError
    assert two.office.row() is None


def test_a_token_that_the_hub_never_made_is_none(two: Two) -> None:
    token = EnrolmentToken.create(two.office.authority.hash)
    assert two.refusal(two.machine.certificates.request(token)) is SignatureError


def test_who_only_saw_a_request_cannot_use_its_token(two: Two) -> None:
    """The id is on the wire, the secret is not."""
    token, thief = two.office.token(), two.other()
    seen = dsse.unverified(two.machine.certificates.request(token), what="it")["token"]
    own = dsse.unverified(thief.certificates.request(), what="it")
    forged = wire.dumps({**own, "token": seen})
    assert two.refusal(dsse.sign(Slot.REQUEST, forged, thief.identity.key)) is SignatureError
    key = EnrolmentToken.create("00" * 32).key
    assert two.refusal(dsse.sign(Slot.REQUEST, forged, thief.identity.key, key)) is SignatureError
    assert two.office.row() is None
    two.office.answer(two.machine.certificates.request(token))


def test_who_has_the_token_alone_cannot_speak_for_a_node_key(two: Two) -> None:
    token, thief = two.office.token(), two.other()
    payload = dsse.unverified(two.machine.certificates.request(token), what="it")
    assert two.refusal(dsse.sign(Slot.REQUEST, wire.dumps(payload), token.key)) is SignatureError
    keys = (token.key, thief.identity.key)
    assert two.refusal(dsse.sign(Slot.REQUEST, wire.dumps(payload), *keys)) is SignatureError


def test_nothing_in_the_hub_s_files_holds_the_secret(two: Two) -> None:
    token = two.office.token()
    two.office.answer(two.machine.certificates.request(token))
    for path in two.office.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert token.secret not in data
            assert token.secret.hex().encode() not in data
            assert token.text.encode() not in data


def test_a_token_lasts_a_week_at_most_and_a_site_is_a_label(two: Two) -> None:
    for wrong in ({"life": 8 * DAY}, {"life": -HOUR}, {"site": "a\nb"}):
        with pytest.raises(UsageError):
            two.office.token(**wrong)


def test_a_name_that_is_taken_needs_to_be_replaced(two: Two) -> None:
    two.office.admit(two.machine)
    other = two.other()
    assert two.refusal(other.certificates.request(two.office.token())) is ScopeError
    two.office.answer(other.certificates.request(two.office.token(replaces=True)))
    row = two.office.row()
    assert row is not None
    assert row.key == other.identity.key.public
    assert two.refusal(two.machine.certificates.request()) is RevokedError


# --- by approval ----------------------------------------------------------------------------------


def test_a_person_approves_what_the_node_s_screen_shows(two: Two) -> None:
    request = two.machine.certificates.request()
    shown = two.machine.certificates.fingerprint()
    assert two.office.enrolment.look(request).fingerprint == shown
    assert two.refusal(request) is NotFoundError
    with pytest.raises(ScopeError):
        two.office.approve(request, "0000 " * 8)
    assert two.office.row() is None
    chain = two.office.approve(request, shown.upper().replace(" ", ""), site="hall 4")
    assert Chain.parse(chain).expires == two.office.clock.utc() + LIFE


def test_a_request_that_was_swapped_on_the_stick_shows_another_fingerprint(two: Two) -> None:
    shown = two.machine.certificates.fingerprint()
    with pytest.raises(ScopeError):
        two.office.approve(two.other().certificates.request(), shown)
    assert two.office.row() is None


# --- what is no request ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({"node": "box-2"}, ScopeError),
        ({"node": "BOX"}, MalformedError),
        ({"node": HUB_NAME}, MalformedError),
        ({"org": "umbrella"}, ScopeError),
        ({"nodeKey": "zz"}, MalformedError),
        ({"nodeKey": "ab" * 32}, SignatureError),
        ({"nonce": "1"}, MalformedError),
        ({"csr": "junk"}, MalformedError),
        ({"csr": None}, MalformedError),
        ({"token": 7}, SignatureError),
    ],
)
def test_a_request_that_is_not_right_is_refused(
    two: Two, changes: dict[str, object], family: type[ApplianceError]
) -> None:
    two.office.admit(two.machine)
    payload = {**dsse.unverified(two.machine.certificates.request(), what="it"), **changes}
    data = dsse.sign(Slot.REQUEST, wire.dumps(payload), two.machine.identity.key)
    assert two.refusal(data) is family


def test_an_envelope_of_another_slot_is_no_request(two: Two) -> None:
    two.office.admit(two.machine)
    payload = dsse.unverified(two.machine.certificates.request(), what="it")
    data = dsse.sign(Slot.REPORTED, wire.dumps(payload), two.machine.identity.key)
    assert two.refusal(data) is MalformedError
    assert two.refusal(b"x" * 70_000) is MalformedError


class Chip:
    """A key that signs and never gives itself away: all that a node asks of one."""

    def __init__(self) -> None:
        self.__key = new_key()

    @property
    def public(self) -> str:
        return self.__key.public

    def sign(self, message: bytes) -> bytes:
        return self.__key.sign(message)


def test_a_node_key_may_lie_in_a_chip(two: Two) -> None:
    me = NodeIdentity(NodeId("box-1"), Chip())
    certificates = Certificates(
        two.machine.folder, me, two.machine.ledger, two.machine.in_force.trust, two.office.clock
    )
    token = two.office.token()
    chain = two.office.answer(certificates.request(token))
    assert certificates.take(chain, authority=token.authority).news
    row = two.office.row()
    assert row is not None
    assert row.key == me.key.public


# --- renewal --------------------------------------------------------------------------------------


def enrolled(two: Two) -> Chain:
    two.office.admit(two.machine)
    chain = two.office.answer(two.machine.certificates.request())
    two.machine.certificates.take(chain, authority=two.office.authority.hash)
    return Chain.parse(chain)


def test_the_name_alone_is_worth_nothing(two: Two) -> None:
    enrolled(two)
    with pytest.raises(ScopeError, match="box-1 is known by another key") as refused:
        two.office.answer(two.other().certificates.request())
    assert "--replace" in str(refused.value.hint)


def test_a_question_that_is_repeated_late_earns_nothing_new(two: Two) -> None:
    """Whoever kept a copy of a request cannot have the hub issue without end."""
    two.office.admit(two.machine)
    request = two.machine.certificates.request()
    first = two.office.answer(request)
    two.pass_days(90)
    assert two.office.answer(request) == first


def test_what_another_authority_issued_is_issued_anew(two: Two) -> None:
    first = enrolled(two)
    assert len(list(two.office.enrolment.messages(two.office.hub.row()))) == 1
    Authority.anew(two.office.folder, "acme", two.office.clock.utc())
    assert list(two.office.enrolment.messages(two.office.hub.row())) == [], "nobody can use it now"
    renewed = Chain.parse(two.office.answer(two.machine.certificates.request()))
    assert renewed.serial != first.serial
    assert renewed.certificates[1] != first.certificates[1]


def test_a_known_key_needs_nobody(two: Two) -> None:
    assert enrolled(two).serial == two.machine.chain().serial


def test_a_certificate_with_most_of_its_life_before_it_is_not_issued_again(two: Two) -> None:
    first = enrolled(two)
    two.pass_days(49)
    assert two.office.answer(two.machine.certificates.request()) == first.pem
    two.pass_days(26)
    renewed = Chain.parse(two.office.answer(two.machine.certificates.request()))
    assert renewed.serial != first.serial
    assert renewed.expires == first.expires + 75 * DAY
    assert two.machine.certificates.take(renewed.pem).news


def test_the_same_question_has_the_same_answer(two: Two) -> None:
    enrolled(two)
    two.pass_days(80)
    request = two.machine.certificates.request()
    answers = {two.office.answer(request) for _ in range(3)}
    assert len(answers) == 1


def test_a_node_renews_after_the_end_as_long_as_policy_allows(two: Two) -> None:
    enrolled(two)
    two.pass_days(129)
    renewed = Chain.parse(two.office.answer(two.machine.certificates.request()))
    assert renewed.expires == two.office.clock.utc() + LIFE
    two.pass_days(100 + 31)
    assert two.refusal(two.machine.certificates.request()) is ExpiredError
    shown = two.machine.certificates.fingerprint()
    two.office.approve(two.machine.certificates.request(), shown)


def test_after_the_end_only_the_same_key_is_renewed(two: Two) -> None:
    enrolled(two)
    two.pass_days(90)
    FileTlsKey.create(two.machine.folder / "identity" / "tls-key.pem")
    two.machine.certificates._asked = None
    assert two.refusal(two.machine.certificates.request()) is None, "before the end, any key"
    two.pass_days(101)
    FileTlsKey.create(two.machine.folder / "identity" / "tls-key.pem")
    two.machine.certificates._asked = None
    assert two.refusal(two.machine.certificates.request()) is ScopeError


def test_a_node_without_a_clock_is_answered(two: Two) -> None:
    enrolled(two)
    two.pass_days(99)
    now = two.office.clock.time
    two.office.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    request = two.machine.certificates.request()
    two.office.clock.time = now
    renewed = two.office.answer(request)
    two.office.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert two.machine.certificates.take(renewed).news


# --- revocation and replacement -------------------------------------------------------------------


def test_nothing_of_a_revoked_node_is_answered_and_its_key_never_comes_back(two: Two) -> None:
    chain = enrolled(two)
    request = two.machine.certificates.request()
    asyncio.run(two.office.enrolment.revoke("box-1", "stolen"))
    for data in (request, two.machine.certificates.request(two.office.token(replaces=True))):
        assert two.refusal(data) is RevokedError
    with pytest.raises(RevokedError):
        two.office.approve(request, two.machine.certificates.fingerprint(), replaces=True)
    key = two.machine.identity.key.public
    with pytest.raises(RevokedError):
        two.office.write(partial(roster.admit, node="box-1", key=key, site="", at="now"))
    with pytest.raises(RevokedError):
        two.office.write(partial(roster.admit, node="box-9", key=key, site="", at="now"))
    row = two.office.row()
    assert row is not None
    assert view(row, None, two.office.clock.utc(), 30.0).state is State.REVOKED
    assert two.office.revoked() == [chain.serial]


def test_the_broker_s_list_names_what_was_revoked(two: Two) -> None:
    chain = enrolled(two)
    path = two.office.folder / "crl.pem"
    two.office.enrolment.write_crl()
    assert len(list(x509.load_pem_x509_crl(path.read_bytes()))) == 0
    asyncio.run(two.office.enrolment.revoke("box-1", "stolen"))
    crl = x509.load_pem_x509_crl(path.read_bytes())
    assert [f"{each.serial_number:x}" for each in crl] == [chain.serial]
    public = two.office.authority.certificate.public_key()
    assert crl.is_signature_valid(public)  # type: ignore[arg-type]
    two.pass_days(101)
    two.office.enrolment.write_crl()
    assert len(list(x509.load_pem_x509_crl(path.read_bytes()))) == 0, "it has ended by itself"


def test_another_machine_takes_the_name_and_generations_go_on_above(two: Two) -> None:
    chain, office = enrolled(two), two.office
    office.write(lambda db: store.put_documents(db, "box-1", [deployment("notes")]))
    reported = {"dbEpoch": "e1", "applied": {"generation": 41}}
    office.write(lambda db: store.set_reported(db, "box-1", reported, 1, "now"))
    office.write(lambda db: db.execute("INSERT INTO suspects VALUES ('box-1', 'two')"))
    new = two.other()
    generation = asyncio.run(office.enrolment.replace("box-1", new.identity.key.public))
    assert generation == 42
    row = office.row()
    assert row is not None
    assert (row.key, row.db_epoch, row.reported) == (new.identity.key.public, None, None)
    assert (row.report, row.heard_at) == (None, None)
    assert office.hub.db.read(receipts.suspects) == {}
    assert row.revoked_at is None
    assert office.revoked() == [chain.serial]
    assert two.refusal(two.machine.certificates.request()) is RevokedError
    assert two.refusal(new.certificates.request()) is None
    with pytest.raises(RevokedError):
        asyncio.run(office.enrolment.replace("box-1", two.machine.identity.key.public))
    asked = office.hub.db.read(lambda db: store.documents(db, "box-1"))
    assert [d["metadata"]["name"] for d in asked] == ["notes"]
    office.write(
        lambda db: store.set_reported(db, "box-1", {**reported, "dbEpoch": "e2"}, 1, "now")
    )
    after = office.row()
    assert after is not None
    assert after.db_epoch == "e2"


def test_a_key_is_one_node_s(two: Two) -> None:
    """Else what was revoked under one name would live on under the other."""
    enrolled(two)
    key = two.machine.identity.key.public
    with pytest.raises(ScopeError):
        two.office.write(partial(roster.admit, node="box-2", key=key, site="", at="now"))
    other = two.other("box-2")
    two.office.admit(other)
    with pytest.raises(ScopeError):
        asyncio.run(two.office.enrolment.replace("box-2", key))
    row = two.office.row("box-2")
    assert row is not None
    assert row.key == other.identity.key.public


def test_replacing_by_the_same_key_changes_nothing(two: Two) -> None:
    enrolled(two)
    key = two.machine.identity.key.public
    assert asyncio.run(two.office.enrolment.replace("box-1", key)) is None
    assert two.refusal(two.machine.certificates.request()) is None


def test_a_name_whose_machine_was_revoked_is_free_for_another(two: Two) -> None:
    enrolled(two)
    asyncio.run(two.office.enrolment.revoke("box-1", "stolen"))
    new = two.other()
    assert two.refusal(new.certificates.request(two.office.token())) is None
    row = two.office.row()
    assert row is not None
    assert (row.key, row.revoked_at) == (new.identity.key.public, None)


def test_the_hub_s_own_certificate_is_renewed_in_time(two: Two) -> None:
    office, now = two.office, two.office.clock.utc()
    certificate, key = hub_tls(office.folder, office.authority, now)
    first = Chain.parse(certificate.read_bytes())
    assert first.own.subject.rfc4514_string() == f"CN={HUB_NAME}"
    assert FileTlsKey.open(key).path == key
    hub_tls(office.folder, office.authority, now + 600 * DAY)
    assert Chain.parse(certificate.read_bytes()).serial == first.serial
    hub_tls(office.folder, office.authority, now + 700 * DAY)
    assert Chain.parse(certificate.read_bytes()).serial != first.serial
