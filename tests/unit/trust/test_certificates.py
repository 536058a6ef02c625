"""What a node takes for its certificate, and what a hub takes for a request."""

import dataclasses
import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.errors import (
    ApplianceError,
    ExpiredError,
    MalformedError,
    NotFoundError,
    ScopeError,
    SignatureError,
    StateUnusableError,
)
from appliance.hub.authority import Authority, hub_tls
from appliance.trust.certificates import (
    CertificateRequest,
    Chain,
    FileTlsKey,
    check_chain,
    fingerprint,
    named,
    spki,
    was_issued_by,
)
from appliance.trust.floor import Now

START = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
LIFE = 100 * DAY
NODE_KEY = "ab" * 32


@dataclasses.dataclass
class Issuing:
    folder: Path
    authority: Authority
    key: FileTlsKey

    def chain(self, node: str = "box-1", at: datetime.datetime = START) -> Chain:
        return self.authority.issue(node, self.key.private.public_key(), at, LIFE)

    def other(self) -> Authority:
        folder = self.folder / "other"
        (folder / "identity").mkdir(parents=True)
        return Authority.of(folder, "acme", START)


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    (tmp_path / "identity").mkdir()
    key = FileTlsKey.create(tmp_path / "tls-key.pem")
    return Issuing(tmp_path, Authority.of(tmp_path, "acme", START), key)


def refusal(issuing: Issuing, chain: Chain, **changes: object) -> type[ApplianceError] | None:
    said = {
        "public": issuing.key.public,
        "node": "box-1",
        "authorities": (issuing.authority.pem,),
        "now": Now(START, proven=True),
        **changes,
    }
    try:
        check_chain(chain, **said)  # type: ignore[arg-type]
    except ApplianceError as error:
        return type(error)
    return None


def test_a_chain_for_our_own_key_and_name_is_taken(issuing: Issuing) -> None:
    chain = Chain.parse(issuing.chain().pem)
    assert refusal(issuing, chain) is None
    assert len(chain.certificates) == 2
    assert chain.expires == START + LIFE


def test_a_chain_for_another_key_or_name_is_not(issuing: Issuing, tmp_path: Path) -> None:
    other = FileTlsKey.create(tmp_path / "other.pem")
    assert refusal(issuing, issuing.chain(), public=other.public) is ScopeError
    assert refusal(issuing, issuing.chain("box-2")) is ScopeError
    two = x509.Name([*named("box-1"), *named("box-2")])
    builder = issuing.authority._begun(two, issuing.key.private.public_key(), START, LIFE)
    assert refusal(issuing, issuing.authority._chain(builder)) is ScopeError


def test_a_chain_of_another_authority_is_not(issuing: Issuing) -> None:
    chain, other = issuing.chain(), issuing.other()
    assert other.certificate.subject == issuing.authority.certificate.subject
    assert refusal(issuing, chain, authorities=(other.pem,)) is SignatureError
    assert refusal(issuing, chain, authorities=()) is SignatureError
    assert refusal(issuing, chain, authorities=(other.pem, issuing.authority.pem)) is None
    assert was_issued_by(chain, (issuing.authority.pem,))
    assert not was_issued_by(chain, (other.pem,))


def test_what_a_node_s_own_certificate_issued_counts_for_nothing(issuing: Issuing) -> None:
    """A node is no authority: its key must not vouch for another's."""
    box_2 = issuing.chain("box-2")
    forged = (
        x509.CertificateBuilder()
        .subject_name(named("box-1"))
        .issuer_name(named("box-2"))
        .public_key(issuing.key.private.public_key())
        .serial_number(7)
        .not_valid_before(START - DAY)
        .not_valid_after(START + LIFE)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(issuing.key.private, SHA256())
        .public_bytes(Encoding.PEM)
    )
    assert refusal(issuing, Chain.parse(forged + box_2.pem)) is SignatureError


def test_what_is_for_a_server_or_an_authority_is_not_a_node_s(issuing: Issuing) -> None:
    server = issuing.authority.issue_server(["box-1"], issuing.key, START)
    assert refusal(issuing, server) is ScopeError
    itself = Chain.parse(issuing.authority.pem.encode())
    found = refusal(issuing, itself, public=spki(itself.own.public_key()), node="acme fleet")
    assert found is ScopeError


@pytest.mark.parametrize(
    ("at", "proven", "taken"),
    [
        (START + LIFE - DAY, True, True),
        (START + LIFE, True, False),
        (START - 2 * DAY, True, True),
        (START - 3 * DAY, True, False),
        (START - 300 * DAY, False, True),
        (START - 500 * DAY, False, False),
        (START + 2 * LIFE, False, False),
    ],
)
def test_dates_are_judged_by_what_counts_as_now(
    issuing: Issuing, at: datetime.datetime, *, proven: bool, taken: bool
) -> None:
    """Where the clock is lost, now is the floor: the hub may well be ahead of that."""
    found = refusal(issuing, issuing.chain(), now=Now(at, proven=proven))
    assert found is (None if taken else ExpiredError)


def test_it_is_due_when_three_quarters_of_its_life_are_over(issuing: Issuing) -> None:
    chain = issuing.chain()
    turn = chain.issued + (chain.expires - chain.issued) * 0.75
    assert not chain.is_due(Now(turn - DAY, proven=True))
    assert chain.is_due(Now(turn, proven=True))


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"x" * 70_000]
)
def test_what_is_no_chain_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Chain.parse(data)


def test_a_chain_has_few_certificates(issuing: Issuing) -> None:
    with pytest.raises(MalformedError):
        Chain.parse(issuing.authority.pem.encode() * 5)


def test_a_request_shows_that_its_key_is_held(issuing: Issuing) -> None:
    found = CertificateRequest.parse(issuing.key.request("box-1"), "box-1")
    assert found.public == issuing.key.public
    with pytest.raises(ScopeError):
        CertificateRequest.parse(issuing.key.request("box-2"), "box-1")


def test_a_request_that_was_changed_is_not_signed(issuing: Issuing) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(named("box-1"))
    csr = builder.sign(issuing.key.private, SHA256())
    der = bytearray(csr.public_bytes(Encoding.DER))
    at = der.index(b"box-1")
    der[at : at + 5] = b"box-2"
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(SignatureError):
        CertificateRequest.parse(changed, "box-2")


def test_only_keys_that_every_broker_takes_are_certified() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(named("box-1"))
    for key, taken in (
        (Ed25519PrivateKey.generate(), True),
        (ec.generate_private_key(ec.SECP384R1()), False),
        (rsa.generate_private_key(65537, 2048), False),
    ):
        algorithm = None if isinstance(key, Ed25519PrivateKey) else SHA256()
        pem = builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()
        if taken:
            CertificateRequest.parse(pem, "box-1")
        else:
            with pytest.raises(MalformedError):
                CertificateRequest.parse(pem, "box-1")


@pytest.mark.parametrize("pem", [None, 7, "", "junk", "x" * 10_000])
def test_what_is_no_request_is_malformed(pem: object) -> None:
    with pytest.raises(MalformedError):
        CertificateRequest.parse(pem, "box-1")


def test_a_fingerprint_stands_for_name_node_key_and_key(issuing: Issuing) -> None:
    public = issuing.key.public
    found = {
        fingerprint("box-1", NODE_KEY, public),
        fingerprint("box-2", NODE_KEY, public),
        fingerprint("box-1", "cd" * 32, public),
        fingerprint("box-1", NODE_KEY, public + b"x"),
    }
    assert len(found) == 4
    assert all(len(each.replace(" ", "")) == 32 for each in found)
    assert fingerprint("box-1", NODE_KEY, public) in found


def test_the_authority_is_made_once_and_its_key_is_the_hub_s_alone(issuing: Issuing) -> None:
    again = Authority.of(issuing.folder, "acme", START + LIFE)
    assert (again.pem, again.hash) == (issuing.authority.pem, issuing.authority.hash)
    assert (issuing.folder / "identity" / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert (
        refusal(issuing, again.issue("box-1", issuing.key.private.public_key(), START, LIFE))
        is None
    )


def test_after_a_theft_another_authority_takes_its_place(issuing: Issuing) -> None:
    chain, now = issuing.chain(), START
    hub_tls(issuing.folder, issuing.authority, now)
    new = Authority.anew(issuing.folder, "acme", now)
    assert new.hash != issuing.authority.hash
    assert Authority.of(issuing.folder, "acme", now).hash == new.hash
    assert not was_issued_by(chain, (new.pem,))
    certificate, _ = hub_tls(issuing.folder, new, now)
    assert was_issued_by(Chain.parse(certificate.read_bytes()), (new.pem,))


def test_an_authority_with_another_s_key_issues_nothing(issuing: Issuing) -> None:
    FileTlsKey.create(issuing.folder / "identity" / "ca-key.pem")
    with pytest.raises(StateUnusableError):
        Authority.of(issuing.folder, "acme", START)
    assert Authority.anew(issuing.folder, "acme", START).pem


def test_a_key_that_is_not_there_or_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        FileTlsKey.open(tmp_path / "none.pem")
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(StateUnusableError):
        FileTlsKey.open(tmp_path / "junk.pem")
