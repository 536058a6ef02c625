"""What the how-to shows of a broker is what a broker does."""

import re
import shutil
from pathlib import Path

import pytest

from scripts import mqtt_transcript
from tests.conftest import need_tool

pytestmark = pytest.mark.integration


def shown(page: Path) -> list[str]:
    """Return what the page shows, without what differs each time."""
    found = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "".join(found).splitlines()
    steady = (line for line in lines if not line.startswith(("ea1/press-1/", "Error:")))
    topics = {line.split()[0] for line in lines if line.startswith("ea1/press-1/")}
    varies = r"^[0-9A-F]+(?=:error)|(?<=^.exit status )\d+"
    return [*(re.sub(varies, "", line) for line in steady), *sorted(topics)]


def test_the_page_shows_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_tool("mosquitto_sub")
    need_tool("openssl")
    page = Path(shutil.copy(mqtt_transcript.PAGE, tmp_path))
    monkeypatch.setattr(mqtt_transcript, "PAGE", page)
    expected = shown(page)
    page.write_text(re.sub(r"(```console\n).*?(```)", r"\1\2", page.read_text(), flags=re.DOTALL))
    assert mqtt_transcript.main() == 0
    assert shown(page) == expected
    assert "ea1/press-1/dn/ack" in expected
