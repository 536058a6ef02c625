"""The hub's certificate authority: who may come to the broker at all.

It is named to the nodes by the offline keys (``appliance keys name-ca``), or before that by the
hash in a token for enrolment. Its own certificate does not end: an epoch of ``trust/hub.json`` ends
it.
"""

import datetime
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.errors import MalformedError, StateUnusableError, UsageError
from appliance.kit.clock import Clock
from appliance.kit.files import locked, write_durably
from appliance.trust.certificates import Chain, FileTlsKey, authority_hash, named, spki

HUB_NAME = "_hub"
"""What the hub's own certificate calls it at the broker; no node's name has an underscore."""

CRL = "crl.pem"
_CA, _CA_KEY = "ca.pem", "ca-key.pem"
_HUB, _HUB_KEY = "tls.pem", "tls-key.pem"
_NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""RFC 5280, 4.1.2.5: a certificate that has no well-defined end."""

_BACK = datetime.timedelta(days=1)
"""Certificates begin up to so long before now, for brokers whose clock is late."""

_CRL_LIFE = datetime.timedelta(days=3650)
"""A broker that is cut off must not turn everybody away because its list is old: it is pushed."""

_HUB_LIFE = datetime.timedelta(days=825)
_MOST_CN, _MOST_HOST = 64, 253
_HOST = re.compile(r"(\*\.)?(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")


@dataclass(frozen=True, slots=True)
class RevokedSerial:
    """A certificate that no broker may accept any more: its serial in hex digits, since when."""

    serial: str
    at: datetime.datetime


class Authority:
    """A key that issues certificates, and its own certificate."""

    def __init__(self, key: FileTlsKey, certificate: x509.Certificate) -> None:
        """Raises StateUnusableError when the key is not the certificate's."""
        if spki(certificate.public_key()) != key.public:
            raise StateUnusableError(
                f"{key.path} is not the key of the authority's certificate",
                hint="restore the hub from a backup, or make another: appliance hub ca --new",
            )
        self._key = key.private
        self.certificate = certificate
        self.pem = certificate.public_bytes(Encoding.PEM).decode()
        self.hash = authority_hash(certificate)

    @classmethod
    def of(cls, state: Path, org: str, now: datetime.datetime) -> "Authority":
        """Return the authority of the hub in ``state``; the first time it is made.

        Raises:
            StateUnusableError: its files are damaged or cannot be written.
        """
        folder = state / "identity"
        with locked(folder / "ca.lock", what="the hub's authority", wait=True):
            if (folder / _CA).exists():
                return cls(FileTlsKey.open(folder / _CA_KEY), _read(folder / _CA))
            return cls._made(folder, org, now)

    @classmethod
    def anew(cls, state: Path, org: str, now: datetime.datetime) -> "Authority":
        """Make another authority in place of one that was stolen; the old key is gone.

        Raises:
            StateUnusableError: its files cannot be written.
        """
        folder = state / "identity"
        with locked(folder / "ca.lock", what="the hub's authority", wait=True):
            return cls._made(folder, org, now)

    @classmethod
    def _made(cls, folder: Path, org: str, now: datetime.datetime) -> "Authority":
        key = FileTlsKey.create(folder / _CA_KEY)
        made = _self_signed(key, org, now)
        write_durably(folder / _CA, made.public_bytes(Encoding.PEM))
        return cls(key, made)

    def issue(
        self, node: str, public: CertificatePublicKeyTypes, now: datetime.datetime,
        life: datetime.timedelta,
    ) -> Chain:  # fmt: skip
        """Return a chain for a client: a node's certificate, and the authority's own.

        Args:
            node: Its name, which becomes the CN and nothing else does.
            public: The key that the request was signed with.
            now: The hub's time, UTC.
            life: How long from now on it is good.
        """
        builder = self._begun(named(node), public, now, life)
        builder = _for(builder, ExtendedKeyUsageOID.CLIENT_AUTH)
        return self._chain(builder)

    def issue_bridge(self, name: str, key: FileTlsKey, now: datetime.datetime) -> Chain:
        """Return a chain with which a site's own broker joins the fleet's."""
        return self.issue(name, key.private.public_key(), now, _HUB_LIFE)

    def issue_server(self, hosts: Sequence[str], key: FileTlsKey, now: datetime.datetime) -> Chain:
        """Return a chain for a broker that is reached by these names and addresses.

        Raises:
            UsageError: there is no name.
        """
        names = x509.SubjectAlternativeName(server_names(hosts))
        public = key.private.public_key()
        builder = self._begun(named(hosts[0][:_MOST_CN]), public, now, _HUB_LIFE)
        builder = _for(builder, ExtendedKeyUsageOID.SERVER_AUTH)
        return self._chain(builder.add_extension(names, critical=False))

    def crl(self, revoked: Iterable[RevokedSerial], now: datetime.datetime) -> bytes:
        """Return the list of certificates that no broker may accept, in PEM."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _BACK)
            .next_update(now + _CRL_LIFE)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
            .add_extension(self._key_id(), critical=False)
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(each.serial, 16))
            builder = builder.add_revoked_certificate(entry.revocation_date(each.at).build())
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def has_signed(self, crl: x509.CertificateRevocationList) -> bool:
        """Whether a list of revoked certificates is this authority's."""
        return crl.is_signature_valid(self._key.public_key())

    def _begun(
        self, subject: x509.Name, public: CertificatePublicKeyTypes, now: datetime.datetime,
        life: datetime.timedelta,
    ) -> x509.CertificateBuilder:  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(_BACK, life / 10))
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(self._key_id(), critical=False)
        )

    def _chain(self, builder: x509.CertificateBuilder) -> Chain:
        own = builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)
        return Chain.parse(own + self.pem.encode())

    def _key_id(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


class Standing:
    """The authority of a hub that runs: the new one as soon as ``hub ca --new`` has made it."""

    def __init__(self, state: Path, org: str, clock: Clock) -> None:
        """Make the authority if there is none yet.

        Raises:
            StateUnusableError: as ``Authority.of``.
        """
        self._state, self._org, self._clock = state, org, clock
        self._file = state / "identity" / _CA
        self._known = self._mark(), Authority.of(state, org, clock.utc())

    def __call__(self) -> Authority:
        """Return the authority of this moment.

        Raises:
            StateUnusableError: its files are damaged.
        """
        mark, found = self._known
        now = self._mark()
        if now is not None and now != mark:  # one that was removed is not made anew behind a hub
            found = Authority.of(self._state, self._org, self._clock.utc())
            self._known = now, found
        return found

    def _mark(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def renew_authority(state: Path, org: str, now: datetime.datetime) -> Authority:
    """Make another authority, and sign anew what the old one signed for the hub itself.

    That is the list of the revoked and the hub's own certificate, for another key: who stole the
    authority's has that one too. Nodes and brokers follow.

    Raises:
        StateUnusableError: its files cannot be written.
    """
    made = Authority.anew(state, org, now)
    try:
        crl = current_crl(state, made, now)
    except StateUnusableError:  # this authority has issued nothing yet that could be on it
        crl = made.crl([], now)
    write_durably(state / CRL, crl)
    FileTlsKey.create(state / "identity" / _HUB_KEY)
    hub_tls(state, made, now)
    return made


def current_crl(state: Path, authority: Authority, now: datetime.datetime) -> bytes:
    """Return the list in ``crl.pem``; signed anew when another authority had signed it.

    Raises:
        StateUnusableError: it is damaged.
    """
    try:
        data = (state / CRL).read_bytes()
    except FileNotFoundError:
        return authority.crl([], now)
    try:
        found = x509.load_pem_x509_crl(data)
        if authority.has_signed(found):
            return data
        revoked = [
            RevokedSerial(f"{each.serial_number:x}", each.revocation_date_utc) for each in found
        ]
    except (ValueError, TypeError) as error:
        raise StateUnusableError(
            f"{state / CRL} is not a list of revoked certificates",
            hint="start the hub again, which writes it: appliance hub run",
        ) from error
    return authority.crl(revoked, now)


def server_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return names and addresses of a broker as certificates have them.

    Raises:
        UsageError: there is none, or one is neither a name nor an address.
    """
    if not hosts:
        raise UsageError("a broker has a name or an address: --host NAME")
    return [_general_name(host) for host in hosts]


def hub_tls(state: Path, authority: Authority, now: datetime.datetime) -> tuple[Path, Path]:
    """Return certificate and key that the hub itself shows the broker, made anew when due."""
    folder = state / "identity"
    certificate, key_file = folder / _HUB, folder / _HUB_KEY
    key = FileTlsKey.open(key_file) if key_file.exists() else FileTlsKey.create(key_file)
    known = _known_chain(certificate)
    if known is not None and spki(known.own.public_key()) != key.public:
        known = None
    ours = known is not None and known.pem.endswith(authority.pem.encode())
    if known is None or not ours or known.expires - now < _HUB_LIFE / 4:
        chain = authority.issue(HUB_NAME, key.private.public_key(), now, _HUB_LIFE)
        write_durably(certificate, chain.pem)
    return certificate, key_file


def _known_chain(path: Path) -> Chain | None:
    """Return a chain of our own; None when there is none, or it is damaged and so made anew."""
    try:
        return Chain.parse(path.read_bytes()) if path.exists() else None
    except MalformedError:
        return None


def _self_signed(key: FileTlsKey, org: str, now: datetime.datetime) -> x509.Certificate:
    name, public = named(f"{org} fleet"), key.private.public_key()
    usage = _usage(signs=False, issues=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder(
            name, name, public, x509.random_serial_number(), now - _BACK, _NEVER
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key.private, SHA256())
    )


def _for(
    builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    usage = _usage(signs=True, issues=False)
    return builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False).add_extension(
        usage, critical=True
    )


def _usage(*, signs: bool, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=issues,
        crl_sign=issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > _MOST_HOST or not _HOST.fullmatch(host):
        raise UsageError(
            f"{host[:80]!r} is neither a name nor an address",
            hint="as nodes reach the broker: --host broker.example.com, or --host 10.0.0.5",
        )
    return x509.DNSName(host)


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateUnusableError(
            f"{path} is not a certificate", hint="restore the hub from a backup"
        ) from error
