from pathlib import Path

import pytest

from appliance.errors import BadDocumentError, NotFoundError, StateUnusableError
from appliance.settings import GatewaySettings, NodeSettings, Settings, load


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_without_file_and_environment_the_defaults_hold() -> None:
    assert load(None, {}) == Settings()


def test_the_environment_goes_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "[gateway]\nport = 9000\nhold_s = 5\n[node]\nresync_s = 1.5\n")
    found = load(path, {"APPLIANCE_GATEWAY_PORT": "9001", "APPLIANCE_OTHER": "x", "PORT": "1"})
    assert found.gateway == GatewaySettings(port=9001, hold_s=5.0)
    assert found.node == NodeSettings(resync_s=1.5)
    assert isinstance(found.gateway.hold_s, float)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gateway", "not TOML"),
        ("[gatway]\nport = 1", "[gatway] is not known; allowed: node, engine, gateway, sync, hub"),
        ("gateway = 1", "gateway is not a table"),
        ("[gateway]\nprot = 1", "gateway.prot is not known; allowed: host, port"),
        ("[gateway]\nport = '9000'", "gateway.port: '9000' is not a whole number"),
        ("[gateway]\nport = 9000.0", "is not a whole number"),
        ("[gateway]\nport = true", "is not a whole number"),
        ("[gateway]\nport = -1", "-1 is below zero"),
        ("[gateway]\nhost = 7", "gateway.host: 7 is not text"),
        ("[node]\nresync_s = true", "node.resync_s: True is not a number"),
        ("[node]\nresync_s = nan", "nan is below zero, or without end"),
        ("[node]\nresync_s = inf", "inf is below zero, or without end"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadDocumentError) as caught:
        load(write(tmp_path, text), {})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("APPLIANCE_GATEWAY_PORT", "many", "gateway.port: 'many' is not a whole number"),
        ("APPLIANCE_GATEWAY_PORT", "", "gateway.port: '' is not a whole number"),
        ("APPLIANCE_NODE_RESYNC_S", "soon", "node.resync_s: 'soon' is not a number"),
        ("APPLIANCE_NODE_RESYNC_S", "nan", "nan is below zero, or without end"),
    ],
)
def test_a_wrong_environment_is_refused_too(name: str, text: str, says: str) -> None:
    with pytest.raises(BadDocumentError) as caught:
        load(None, {name: text})
    assert says in str(caught.value)


def test_settings_that_are_not_there_or_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no settings"):
        load(tmp_path / "none.toml", {})
    with pytest.raises(StateUnusableError, match="Is a directory"):
        load(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(BadDocumentError, match="not text"):
        load(tmp_path / "latin.toml", {})
