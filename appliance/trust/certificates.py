"""X.509 as far as this fleet needs it: a node's request, and the chain that answers it.

A certificate opens the broker's door and nothing else: what a node says is signed by its node key,
what a hub says by the keys in ``trust/director.json``. So the key for TLS is one of its own, and
it may be replaced. It is a P-256 key: every broker takes it, and so does a TPM 2.0.
"""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import (
    ExpiredError,
    MalformedError,
    NotFoundError,
    RefusedError,
    ScopeError,
    SignatureError,
    StateUnusableError,
)
from appliance.kit.clock import rfc3339
from appliance.kit.files import translated, write_durably
from appliance.trust.floor import SPAN, Now

MAX_CHAIN_BYTES = 64 << 10
MAX_REQUEST_BYTES = 8 << 10
RENEW_AT = 0.75
"""At this part of its life a certificate is asked for anew."""

_MOST_CERTIFICATES = 4
_SKEW = datetime.timedelta(days=1)
"""How far ahead of this machine's clock the hub's may be."""

_AGAIN = "have the hub answer again: appliance hub enrol import STICK, or appliance enrol --hub URL"
_BAD = (ValueError, TypeError, UnsupportedAlgorithm)


class TlsKey(Protocol):
    """A key for TLS. Its private half may lie in a file or in a chip that never gives it away."""

    @property
    def public(self) -> bytes:
        """The public half, as SubjectPublicKeyInfo in DER."""

    @property
    def path(self) -> Path:
        """What OpenSSL is told to load."""

    def request(self, node: str) -> str:
        """Return a PKCS#10 request in PEM for a certificate in the name of ``node``."""


class FileTlsKey:
    """A key for TLS in a file, 0600: the one implementation so far."""

    def __init__(self, path: Path, private: ec.EllipticCurvePrivateKey) -> None:
        self.path = path
        self._private = private
        self.public = spki(private.public_key())

    @classmethod
    def create(cls, path: Path) -> "FileTlsKey":
        """Make a key and write it durably."""
        private = ec.generate_private_key(ec.SECP256R1())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durably(path, pem, mode=0o600)
        return cls(path, private)

    @classmethod
    def open(cls, path: Path) -> "FileTlsKey":
        """Read a key that ``create`` wrote.

        Raises:
            NotFoundError: there is none.
            StateUnusableError: it cannot be read, or is no such key.
        """
        try:
            with translated(f"reading the key {path}"):
                private = load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError as error:
            raise NotFoundError(f"no key at {path}") from error
        except _BAD as error:
            raise StateUnusableError(f"{path} is not an unencrypted private key") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise StateUnusableError(f"{path} is not a P-256 key")
        return cls(path, private)

    @property
    def private(self) -> ec.EllipticCurvePrivateKey:
        """The private half, for who signs certificates with it."""
        return self._private

    def request(self, node: str) -> str:
        """Return a request; see ``TlsKey``."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(named(node))
        return builder.sign(self._private, SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True, slots=True)
class Chain:
    """Certificates, a node's own first, as they came: verified by nobody yet."""

    pem: bytes
    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def parse(cls, data: bytes, what: str = "what came as a certificate") -> "Chain":
        """Return the chain in ``data``; ``what`` names it for who reads the error.

        Raises:
            MalformedError: it is not 1 to 4 certificates in PEM.
        """
        if len(data) > MAX_CHAIN_BYTES:
            raise MalformedError(f"{what} has {len(data)} bytes, too many for a chain", hint=_AGAIN)
        try:
            found = tuple(x509.load_pem_x509_certificates(data))
            for each in found:
                _ = each.extensions, each.subject, each.issuer
        except (*_BAD, x509.DuplicateExtension) as error:
            why = "it is damaged, or something else" if data.strip() else "it is empty"
            refused = f"{what} is not a chain of certificates in PEM: {why}"
            raise MalformedError(refused, hint=_AGAIN) from error
        if not 1 <= len(found) <= _MOST_CERTIFICATES:
            raise MalformedError(f"{what} is a chain of {len(found)} certificates", hint=_AGAIN)
        pem = b"".join(each.public_bytes(Encoding.PEM) for each in found)
        return cls(pem, found)

    @property
    def own(self) -> x509.Certificate:
        """The node's own."""
        return self.certificates[0]

    @property
    def serial(self) -> str:
        """Its serial number, as hex digits."""
        return f"{self.own.serial_number:x}"

    @property
    def issued(self) -> datetime.datetime:
        return self.own.not_valid_before_utc

    @property
    def expires(self) -> datetime.datetime:
        return self.own.not_valid_after_utc

    def is_due(self, now: Now) -> bool:
        """Whether three quarters of its life are over, so that another is to be asked for."""
        return now.at >= self.issued + (self.expires - self.issued) * RENEW_AT


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request whose signature shows that who asks has the private half."""

    csr: x509.CertificateSigningRequest
    public: bytes

    @classmethod
    def parse(cls, pem: object, node: str) -> "CertificateRequest":
        """Return the request of a node.

        Raises:
            MalformedError: it is not PKCS#10 in PEM, or its key is of another kind.
            SignatureError: it is not signed by its own key.
            ScopeError: it asks for another name.
        """
        if not isinstance(pem, str) or len(pem) > MAX_REQUEST_BYTES:
            raise MalformedError("a request for a certificate is not a short text")
        try:
            csr = x509.load_pem_x509_csr(pem.encode())
            key, signed, names = csr.public_key(), csr.is_signature_valid, common_names(csr.subject)
        except (*_BAD, InvalidSignature) as error:
            raise MalformedError("that is not a request for a certificate in PEM") from error
        if not _is_allowed(key):
            raise MalformedError("a request for a certificate is for a P-256 or an Ed25519 key")
        if not signed:
            raise SignatureError("a request for a certificate is not signed by its own key")
        if names != [node]:
            raise ScopeError(f"{node} asks for a certificate in the name {names!r:.80}")
        return cls(csr, spki(key))


def check_chain(
    chain: Chain, public: bytes, node: str, authorities: Sequence[str], now: Now
) -> None:
    """Check that a chain is for this node's own key and name, by an authority, and in force.

    Args:
        chain: What came.
        public: The public half of this node's key for TLS (``TlsKey.public``).
        node: This node's name.
        authorities: Certificates in PEM of those who may issue.
        now: Its dates are judged by this. When it is unproven the hub's clock may be ahead of it.

    Raises:
        ScopeError: it is for another key or name, or for something else than a client.
        SignatureError: no authority issued it.
        ExpiredError: it is not in force.
    """
    own = chain.own
    if spki(own.public_key()) != public:
        raise ScopeError("the certificate is for another key than this node's")
    if common_names(own.subject) != [node]:
        raise ScopeError(f"the certificate is for another name than {node}")
    if _is_authority(own) or not _is_for_clients(own):
        raise ScopeError("the certificate is not one for a client of the broker")
    anchors = [x509.load_pem_x509_certificate(pem.encode()) for pem in authorities]
    for certificate in (*_below(chain, anchors), own):
        _check_dates(certificate, now)


def was_issued_by(chain: Chain, authorities: Sequence[str]) -> bool:
    """Whether a chain leads to one of these authorities, whatever the time is."""
    anchors = [x509.load_pem_x509_certificate(pem.encode()) for pem in authorities]
    try:
        _below(chain, anchors)
    except RefusedError:
        return False
    return True


def fingerprint(node: str, node_key: str, public: bytes) -> str:
    """Return what two people compare: 128 bits over name, node key and key for TLS."""
    said = b"appliance enrolment\0%s\0%s\0%s" % (node.encode(), bytes.fromhex(node_key), public)
    digits = hashlib.sha256(said).hexdigest()[:32]
    return " ".join(digits[n : n + 4] for n in range(0, 32, 4))


def authority_hash(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of an authority's certificate in DER: 64 hex digits."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def named(node: str) -> x509.Name:
    """Return a node's name as certificates have it: its CN and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])


def common_names(name: x509.Name) -> list[str]:
    """Return every CN in a name; a certificate of ours has exactly one."""
    return [str(found.value) for found in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


def spki(key: object) -> bytes:
    """Return a public key as SubjectPublicKeyInfo in DER; empty for a kind that is never ours."""
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_allowed(key: object) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


def _below(chain: Chain, anchors: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the authorities between the node's own certificate and an anchor, and the anchor."""
    used: list[x509.Certificate] = []
    current = chain.own
    for above in (*chain.certificates[1:], None):
        found = next((anchor for anchor in anchors if _issued(current, anchor)), None)
        if found is not None:
            return [found, *used]
        if above is None or not _is_authority(above) or not _issued(current, above):
            break
        used.append(above)
        current = above
    raise SignatureError(
        "no authority that this node trusts issued the certificate",
        hint="import a bundle that names the hub's authority: appliance keys name-ca",
    )


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (*_BAD, InvalidSignature):
        return False
    return True


def _check_dates(certificate: x509.Certificate, now: Now) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    ahead = _SKEW if now.proven else SPAN
    if now.at >= ends:
        raise ExpiredError(
            f"the certificate ended at {rfc3339(ends)}; now is {rfc3339(now.at)}",
            hint="check the clock of the hub, and ask for another",
        )
    if now.at + ahead < begins:
        raise ExpiredError(
            f"the certificate begins only at {rfc3339(begins)}; now is {rfc3339(now.at)}",
            hint="check the clock of this machine and of the hub",
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return bool(found.value.ca)


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in found.value
