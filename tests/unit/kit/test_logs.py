import logging
import re
from collections.abc import Iterator

import pytest

from appliance.kit import logs


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_a_line_in_utc_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure()
    log = logging.getLogger("appliance.test")
    record = log.makeRecord(log.name, logging.INFO, "", 0, "%s is ready", ("small",), None)
    record.created, record.msecs = 1_796_112_000.007, 7.0
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    log.handle(record)
    written = capsys.readouterr()
    assert written.err == "2026-12-01T08:00:00.007Z INFO appliance.test: small is ready\n"
    assert written.out == ""


def test_configuring_twice_does_not_log_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug")
    logs.configure("warning")
    log = logging.getLogger("appliance.test")
    log.info("quiet")
    log.warning("loud")
    assert re.findall(r"\w+$", capsys.readouterr().err, re.MULTILINE) == ["loud"]
