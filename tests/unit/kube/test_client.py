"""How a server is reached: kubeconfigs that make no sense, and those that somebody replaces."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from appliance.errors import StateUnusableError
from appliance.kube.client import KubeApi

_HEARD: list[str] = []
CONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _HEARD.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        pass


@pytest.fixture
def port() -> Iterator[int]:
    _HEARD.clear()
    server = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_kubeconfig_that_somebody_replaced_is_used_and_rubbish_is_not(
    port: int, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(CONFIG.format(port=port, token="first"))
    api = KubeApi.connect(path, manager="m", timeout_s=5)
    api.get("/")
    path.write_text(CONFIG.format(port=port, token="the-second"))
    api.get("/")
    path.write_text("}{")
    api.get("/")
    path.unlink()
    api.get("/")
    assert _HEARD == ["Bearer first"] + ["Bearer the-second"] * 3


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"}{ token: SECRET: [",
        b"\x80\x81",
        b"[1, 2]",
        b"7",
        b"clusters: 7\ncurrent-context: x\n",
    ],
)
def test_rubbish_is_said_to_be_such_without_a_word_of_it(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_bytes(text)
    with pytest.raises(StateUnusableError, match="does not say how to reach") as caught:
        KubeApi.connect(path, manager="m")
    assert "SECRET" not in str(caught.value)
