"""Addresses of brokers: what is understood, and what is refused in words."""

import pytest

from appliance.errors import UsageError
from appliance.sync.broker import BrokerAddress


@pytest.mark.parametrize(
    ("url", "host", "port", "secure", "path"),
    [
        ("mqtt://broker", "broker", 1883, 0, None),
        ("mqtt://[::1]:77", "::1", 77, 0, None),
        ("mqtts://broker", "broker", 8883, 1, None),
        ("ws://broker", "broker", 80, 0, "/mqtt"),
        ("wss://broker", "broker", 443, 1, "/mqtt"),
        ("wss://broker:8443/", "broker", 8443, 1, "/mqtt"),
        ("wss://broker/other/way", "broker", 443, 1, "/other/way"),
    ],
)
def test_an_address_says_all_that_is_needed(
    url: str, host: str, port: int, secure: int, path: str | None
) -> None:
    found = BrokerAddress.parse(url)
    assert (found.host, found.port, found.is_secure) == (host, port, bool(secure))
    assert found.is_web == (path is not None)
    assert path is None or found.path == path


@pytest.mark.parametrize(
    "url",
    ["broker", "http://broker", "mqtt://", "mqtts://broker:0x1", "mqtt://b:99999"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not a broker's address"):
        BrokerAddress.parse(url)


def test_a_name_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="no name or password") as found:
        BrokerAddress.parse("mqtt://box:secret@broker")
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("proxy", ["proxy:3128", "https://proxy", "socks5://u:secret@proxy", "x"])
def test_a_proxy_is_an_http_address_and_its_password_is_not_shown(proxy: str) -> None:
    with pytest.raises(UsageError, match="proxy") as found:
        BrokerAddress.parse("wss://broker", proxy=proxy)
    assert "secret" not in str(found.value)


def test_an_address_as_text_says_how_one_gets_there_and_no_password() -> None:
    found = BrokerAddress.parse("wss://broker", proxy="http://box:secret@proxy:3128")
    assert str(found) == "the broker at wss://broker:443 through http://proxy:3128"
    assert found.proxy is not None
    assert found.proxy.login is not None
    assert found.proxy.login.password == "secret"
    assert "secret" not in repr(found)
