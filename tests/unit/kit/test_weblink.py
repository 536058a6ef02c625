"""Addresses show no secrets; connections trust the authority they were told, whatever the clock."""

import contextlib
import datetime
from pathlib import Path

import pytest

from appliance.errors import PeerUnreachableError, StateUnusableError, UsageError
from appliance.kit.remote import Remote
from appliance.kit.weblink import Link, Url
from tests.fakes.web import Certificate, WebServer

UTC = datetime.UTC
THEN = datetime.datetime(2020, 1, 1, tzinfo=UTC)
LATER = datetime.datetime(2021, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/b", "https://h/b"),
        ("HTTPS://H:443/b", "https://h/b"),
        ("https://me:secret@h:8443/b?sig=secret", "https://h:8443/b?..."),
        ("http://[::1]:80/", "http://[::1]"),
        ("https://[fd00::7]:4430/b", "https://[fd00::7]:4430/b"),
    ],
)
def test_what_is_shown_holds_no_secret(text: str, shown: str) -> None:
    url = Url.parse(text)
    assert str(url) == shown
    assert "secret" not in repr(url)


@pytest.mark.parametrize(
    "text",
    [
        *("", "h/b", "ftp://h/b", "https://", "https://h:port/", "https://h:99999/"),
        *("https://[::1/", "https://h/a b", "https://h/\n", "https://h/\x1b[2J", "https://hö/"),
        "https://u:secret@/",
    ],
)
def test_what_is_no_address_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Url.parse(text)
    assert "secret" not in str(caught.value)


def test_a_query_goes_with_every_file_below() -> None:
    url = Url.parse("https://h/b/?sig=1").below("tuf/a b.json")
    assert url.target == "/b/tuf/a%20b.json?sig=1"


@pytest.mark.parametrize(
    ("begun", "led", "may"),
    [
        ("https://h/a", "/b", True),
        ("https://h/a", "https://h:444/b", True),
        ("http://h/a", "https://h/b", True),
        ("https://h/a", "http://h/b", False),
        ("http://h/a", "http://h:81/b", False),
        ("https://h/a", "https://evil/b", False),
        ("https://h/a", "//evil/b", False),
        ("https://h/a", "https://cdn/b", True),
        ("https://h/a", "http://cdn/b", False),
    ],
)
def test_where_a_server_may_send_us(begun: str, led: str, *, may: bool) -> None:
    link, url = Link(also_hosts=frozenset({"cdn"})), Url.parse(begun)
    assert link.allows(url, url.led_to(led)) is may


def never(_: float) -> None:
    pytest.fail("nothing here is worth a second try")


def fetch(certificate: Certificate, link: Link, host: str = "localhost") -> bytes:
    with WebServer(tls=certificate) as server, contextlib.closing(Remote(link)) as remote:
        server.files["/a"] = b"bytes"
        return remote.get(Url.parse(f"https://{host}:{server.port}/a"), 100)


def test_the_dates_of_a_certificate_are_not_judged_by_the_machine_s_clock(tmp_path: Path) -> None:
    for begins, ends in [(THEN, LATER), (datetime.datetime(2090, 1, 1, tzinfo=UTC),) * 2]:
        certificate = Certificate(tmp_path, begins=begins, ends=ends + datetime.timedelta(days=1))
        assert fetch(certificate, Link(ca_file=certificate.ca_file)) == b"bytes"


def test_one_that_ended_before_a_time_that_is_surely_past_is_refused(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, begins=THEN, ends=LATER)
    link = Link(ca_file=certificate.ca_file, surely_past=lambda: THEN)
    assert fetch(certificate, link) == b"bytes"
    link = Link(ca_file=certificate.ca_file, surely_past=lambda: datetime.datetime.now(UTC))
    with pytest.raises(PeerUnreachableError, match="of localhost ended on 2021-01-01"):
        fetch(certificate, link)


def test_another_authority_is_not_trusted_and_not_asked_twice(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    now = datetime.datetime.now(UTC)
    span = {"begins": now - datetime.timedelta(days=1), "ends": now + datetime.timedelta(days=1)}
    good, other = Certificate(tmp_path, **span), Certificate(tmp_path / "other", **span)
    with pytest.raises(PeerUnreachableError, match="certificate is not to be trusted") as caught:
        fetch(good, Link(ca_file=other.ca_file, sleep=never))
    assert "network.ca_file" in str(caught.value.hint)
    with pytest.raises(PeerUnreachableError, match="not to be trusted"):
        fetch(good, Link(sleep=never))


def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path, begins=THEN, ends=LATER)
    with pytest.raises(PeerUnreachableError, match="not to be trusted"):
        fetch(certificate, Link(ca_file=certificate.ca_file, sleep=never), "127.0.0.1")


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(StateUnusableError, match=name):
            Remote(Link(ca_file=tmp_path / name)).get(Url.parse("https://localhost:1/"), 1)


def test_ipv6() -> None:
    try:
        server = WebServer(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server, contextlib.closing(Remote(Link())) as remote:
        server.files["/a"] = b"bytes"
        assert remote.get(Url.parse(f"{server.url}/a"), 100) == b"bytes"
        assert server.gets("/a")[0]["Host"] == f"[::1]:{server.port}"


def test_the_environment_s_proxy_is_used_with_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WebServer() as proxy:
        proxy.files["http://nowhere.invalid/a"] = b"by proxy"
        monkeypatch.setenv("http_proxy", f"http://me:secret@{proxy.host}:{proxy.port}")
        with contextlib.closing(Remote(Link())) as remote:
            assert remote.get(Url.parse("http://nowhere.invalid/a"), 100) == b"by proxy"
        (headers,) = proxy.gets("http://nowhere.invalid/a")
        assert headers["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
        monkeypatch.setenv("no_proxy", "nowhere.invalid")
        with pytest.raises(PeerUnreachableError):
            Remote(Link(tries=1)).get(Url.parse("http://nowhere.invalid/a"), 100)


def test_a_proxy_that_is_none_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("http://me:secret@/", "https://me:secret@p:1"):
        monkeypatch.setenv("https_proxy", text)
        with pytest.raises(UsageError, match="https_proxy") as caught:
            Remote(Link()).get(Url.parse("https://h/"), 1)
        assert "secret" not in str(caught.value)
