"""Commands by somebody who owns nothing of the node: the socket says who may, not its folder."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance.cli.main import build
from appliance.errors import ForbiddenError, PeerUnreachableError, StateUnusableError
from appliance.wiring import local, places

NOBODY = 65534
_SOCKETS = {"get": ["get"], "status": ["status"], "model": ["model", "list"]}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be somebody to whom modes mean something."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a node's folder that others may pass through and not list."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode, **k: mode != os.R_OK and real(p, mode, **k))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir(mode=0o755)
        (folder / "identity").mkdir(mode=0)
        folder.chmod(0o711)
        yield folder
        folder.chmod(0o700)


def ran(state: Path, *words: str) -> BaseException | None:
    """Run a command; return what ended it."""
    assert local.__name__  # imported by now: nobody might not be allowed to read the module
    app, given = build(words[0]), [*words, "--state-dir", str(state)]
    with as_nobody():
        found: Any = CliRunner().invoke(app, given)
    assert "not readable" not in found.output
    error: BaseException | None = found.exception
    return error


@contextmanager
def listening(state: Path, mode: int) -> Iterator[Path]:
    path = state / places.CONTROL_SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(1)
        yield path


@pytest.mark.parametrize("name", _SOCKETS)
def test_a_socket_that_may_not_be_opened_says_who_may(state: Path, name: str) -> None:
    with listening(state, 0) as path:
        error = ran(state, *_SOCKETS[name])
    assert isinstance(error, ForbiddenError)
    assert f"may not open the socket {path}" in error.what
    assert "run it as root" in str(error.hint)
    assert "a member of the group" in str(error.hint)


def test_where_nobody_listens_the_folder_is_not_to_blame(state: Path) -> None:
    assert isinstance(ran(state, "get"), PeerUnreachableError)
    error = ran(state, "model", "list")
    assert isinstance(error, StateUnusableError)
    assert "start the controller" in str(error.hint)


def test_a_folder_that_may_not_be_entered_is_named(state: Path) -> None:
    (state / "run").chmod(0)
    error = ran(state, "get")
    assert isinstance(error, ForbiddenError)
    assert f"may enter {state / 'run'}" in str(error.hint)
    (state / "run").chmod(0o755)
