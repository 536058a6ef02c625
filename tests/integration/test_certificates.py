"""What the hub issues, at the door of a real mosquitto."""

import contextlib
import datetime
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import hub_identity
from appliance.hub import identity
from appliance.hub.authority import Authority, RevokedSerial, hub_tls, renew_authority
from appliance.trust.certificates import CertificateRequest, Chain, FileTlsKey
from tests.conftest import need_tool

pytestmark = pytest.mark.integration

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"
ACCEPTED = b"\x20\x02\x00\x00"


class Door:
    """A broker that lets in whom the hub's authority vouches for, and the hub beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        identity.create(folder / "hub", "acme")
        self.authority = Authority.of(folder / "hub", "acme", NOW)
        hub_identity.broker_cert(folder / "broker", ["localhost", "127.0.0.1"], "", folder / "hub")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        broker = folder / "broker"
        broker.chmod(0o755)
        settings = broker / "mosquitto.conf"
        settings.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous false\n"
            f"cafile {broker}/hub-ca.pem\ncertfile {broker}/broker.pem\n"
            f"keyfile {broker}/broker-key.pem\ncrlfile {broker}/revoked.pem\n"
            "tls_version tlsv1.3\nrequire_certificate true\nuse_identity_as_username true\n"
        )
        self.settings = settings
        self.log = (folder / "log").open("wb")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [need_tool("mosquitto"), "-c", str(self.settings)], stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.stop()
        self.log.close()

    def certificate(self, node: str, at: datetime.datetime = NOW) -> tuple[Path, Path]:
        """Issue one as the hub does: for what a request asks."""
        key = FileTlsKey.create(self.folder / f"{node}-key.pem")
        asked = CertificateRequest.parse(key.request(node), node)
        chain = self.authority.issue(node, asked.csr.public_key(), at, DAY)
        path = self.folder / f"{node}.pem"
        path.write_bytes(chain.pem)
        return path, key.path

    def lets_in(self, files: tuple[Path, Path] | None) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / "broker" / "hub-ca.pem")
        if files is not None:
            context.load_cert_chain(*files)
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 5) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                secure.sendall(CONNECT)
                return secure.recv(4) == ACCEPTED
        except (ssl.SSLError, ConnectionError):
            return False

    def revoke(self, path: Path) -> None:
        """Give the broker the hub's new list."""
        serial = Chain.parse(path.read_bytes()).serial
        crl = self.authority.crl([RevokedSerial(serial, NOW)], NOW)
        (self.folder / "broker" / "revoked.pem").write_bytes(crl)
        os.kill(self.process.pid, signal.SIGHUP)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()


def test_the_broker_lets_in_whom_the_hub_vouches_for_until_it_revokes_them(door: Door) -> None:
    one, two = door.certificate("box-1"), door.certificate("box-2")
    assert door.lets_in(one)
    assert door.lets_in(hub_tls(door.folder / "hub", door.authority, NOW))
    assert not door.lets_in(None)
    assert not door.lets_in(door.certificate("box-3", NOW - 2 * DAY))
    door.revoke(one[0])
    deadline = time.monotonic() + 10
    while door.lets_in(one) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not door.lets_in(one)
    assert door.lets_in(two)


def test_another_authority_of_the_same_name_opens_nothing(door: Door, tmp_path: Path) -> None:
    (tmp_path / "other" / "identity").mkdir(parents=True)
    other = Authority.of(tmp_path / "other", "acme", NOW)
    key = FileTlsKey.create(tmp_path / "key.pem")
    path = tmp_path / "cert.pem"
    path.write_bytes(other.issue("box-1", key.private.public_key(), NOW, DAY).pem)
    assert not door.lets_in((path, key.path))


def test_after_a_theft_only_what_the_new_authority_issued_opens_the_door(door: Door) -> None:
    """The steps of the how-to: a new authority, the broker's files, the broker started again."""
    old, stolen, hub = door.certificate("box-1"), door.certificate("box-2"), door.folder / "hub"
    (hub / "crl.pem").write_bytes(
        door.authority.crl([RevokedSerial(Chain.parse(old[0].read_bytes()).serial, NOW)], NOW)
    )
    door.authority = renew_authority(hub, "acme", NOW)
    hub_identity.broker_cert(door.folder / "broker", ["localhost"], "", hub)
    door.stop()
    door.start()
    assert door.lets_in(hub_tls(hub, door.authority, NOW))
    assert door.lets_in(door.certificate("box-3"))
    assert not door.lets_in(old)
    assert not door.lets_in(stolen)


def test_openssl_agrees_on_chain_purpose_and_revocation(door: Door) -> None:
    path, _ = door.certificate("box-1")
    broker = door.folder / "broker"
    command = [need_tool("openssl"), "verify", "-CAfile", str(broker / "hub-ca.pem"),
               "-x509_strict", "-crl_check", "-CRLfile", str(broker / "revoked.pem")]  # fmt: skip

    def agrees(purpose: str, file: Path) -> bool:
        done = subprocess.run(
            [*command, "-purpose", purpose, str(file)], capture_output=True, check=False
        )
        return done.returncode == 0

    assert agrees("sslclient", path)
    assert not agrees("sslserver", path)
    assert agrees("sslserver", broker / "broker.pem")
    assert not agrees("sslclient", broker / "broker.pem")
    door.revoke(path)
    assert not agrees("sslclient", path)
