"""Another authority in place of a stolen one: a hub that runs and what lies on its disk follow."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from appliance.cli import hub_identity
from appliance.errors import StateUnusableError, UsageError
from appliance.hub import identity
from appliance.hub.authority import Authority, Standing, hub_tls, renew_authority
from appliance.trust.certificates import Chain, FileTlsKey
from tests.helpers.enrolling import Machine, Office
from tests.helpers.waiting import StillClock

NOW = StillClock().utc()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path / "hub")
    yield made
    made.close()


def is_signed(crl: bytes, authority: Authority) -> bool:
    found = x509.load_pem_x509_crl(crl)
    return found.is_signature_valid(authority.certificate.public_key())  # type: ignore[arg-type]


def serials(crl: bytes) -> list[str]:
    return sorted(f"{each.serial_number:x}" for each in x509.load_pem_x509_crl(crl))


def revoked(office: Office, folder: Path, name: str = "box-1") -> str:
    """Enrol a machine and revoke it; return its certificate's serial."""
    machine = Machine(folder / name, office.clock, name)
    chain = office.answer(machine.certificates.request(office.token(name)))
    machine.close()
    asyncio.run(office.enrolment.revoke(name, "stolen"))
    return Chain.parse(chain).serial


def test_a_hub_that_runs_goes_over_to_the_new_authority(office: Office, tmp_path: Path) -> None:
    first = revoked(office, tmp_path)
    hub_tls(office.folder, office.authority, office.clock.utc())
    new = renew_authority(office.folder, "acme", office.clock.utc())
    assert office.authority.hash == new.hash, "what the API serves"
    assert office.token("box-2").authority == new.hash
    machine = Machine(tmp_path / "box-2", office.clock, "box-2")
    chain = office.answer(machine.certificates.request(office.token("box-2")))
    machine.close()
    assert chain.endswith(new.pem.encode())
    assert is_signed(office.enrolment.crl(), new)
    second = revoked(office, tmp_path, "box-3")
    written = (office.folder / "crl.pem").read_bytes()
    assert is_signed(written, new)
    assert serials(written) == sorted([first, second])


def test_the_new_authority_signs_at_once_what_the_hub_itself_shows(
    office: Office, tmp_path: Path
) -> None:
    serial = revoked(office, tmp_path)
    certificate, key = hub_tls(office.folder, office.authority, NOW)
    stolen = key.read_bytes()
    new = renew_authority(office.folder, "acme", NOW)
    assert key.read_bytes() != stolen
    own = Chain.parse(certificate.read_bytes()).own
    assert own.public_key() == FileTlsKey.open(key).private.public_key()
    written = (office.folder / "crl.pem").read_bytes()
    assert is_signed(written, new)
    assert serials(written) == [serial]
    assert certificate.read_bytes().endswith(new.pem.encode())


def test_a_list_that_is_damaged_or_a_certificate_stops_no_new_authority(office: Office) -> None:
    certificate, _ = hub_tls(office.folder, office.authority, NOW)
    certificate.write_bytes(b"")
    (office.folder / "crl.pem").write_bytes(b"junk")
    new = renew_authority(office.folder, "acme", NOW)
    assert is_signed((office.folder / "crl.pem").read_bytes(), new)
    assert certificate.read_bytes().endswith(new.pem.encode())


def test_a_power_cut_between_key_and_certificate_of_the_hub_heals(office: Office) -> None:
    certificate, key = hub_tls(office.folder, office.authority, NOW)
    made = FileTlsKey.create(key)
    hub_tls(office.folder, office.authority, NOW)
    assert Chain.parse(certificate.read_bytes()).own.public_key() == made.private.public_key()


def test_an_authority_that_is_removed_is_not_made_anew_behind_a_hub(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    standing = Standing(tmp_path, "acme", StillClock())
    first = standing().hash
    (tmp_path / "identity" / "ca.pem").unlink()
    assert standing().hash == first
    assert not (tmp_path / "identity" / "ca.pem").exists()


# --- what a broker is given -----------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    identity.create(tmp_path / "hub", "acme")
    return tmp_path / "hub"


def test_a_broker_s_list_is_of_the_authority_that_it_is_given(hub: Path, tmp_path: Path) -> None:
    old = Authority.of(hub, "acme", NOW)
    (hub / "crl.pem").write_bytes(old.crl([], NOW))
    new = Authority.anew(hub, "acme", NOW)
    hub_identity.broker_cert(tmp_path / "broker", ["localhost"], "", hub)
    assert (tmp_path / "broker" / "hub-ca.pem").read_text() == new.pem
    assert is_signed((tmp_path / "broker" / "revoked.pem").read_bytes(), new)


def test_a_broker_is_not_given_an_empty_list_in_place_of_a_damaged_one(
    hub: Path, tmp_path: Path
) -> None:
    Authority.of(hub, "acme", NOW)
    (hub / "crl.pem").write_bytes(b"junk")
    with pytest.raises(StateUnusableError, match="not a list of revoked") as refused:
        hub_identity.broker_cert(tmp_path / "broker", ["localhost"], "", hub)
    assert refused.value.hint
    assert not (tmp_path / "broker").exists()


@pytest.mark.parametrize(
    "host",
    ["bad host", "", "a..b", "-a", "a-", "x" * 64, "a." * 127 + "ab", "[::1]", "b\u00fccher.de"],
)
def test_what_is_no_host_makes_no_broker_s_files(hub: Path, tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="neither a name nor an address") as refused:
        hub_identity.broker_cert(tmp_path / "broker", ["localhost", host], "", hub)
    assert "--host" in str(refused.value.hint)
    assert not (tmp_path / "broker").exists()


def test_names_and_addresses_of_a_broker_are_in_its_certificate(hub: Path, tmp_path: Path) -> None:
    long = ".".join(["broker"] * 12)
    hosts = [long, "10.0.0.5", "::1", "*.example.com", "localhost"]
    hub_identity.broker_cert(tmp_path / "broker", hosts, "", hub)
    own = Chain.parse((tmp_path / "broker" / "broker.pem").read_bytes()).own
    found = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in found] == hosts
    key = tmp_path / "broker" / "broker-key.pem"
    assert FileTlsKey.open(key).private.public_key() == own.public_key()
    assert not key.stat().st_mode & 0o077
