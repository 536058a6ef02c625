"""The warning before models fill the kubelet's disk: shown always, told once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import PeerUnreachableError
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node.preflight import DiskPreflight
from tests.helpers.waiting import StillClock


class Kubelet:
    """Answers for the kubelet."""

    def __init__(self) -> None:
        self.share = "0%"
        self.away = False

    def configz(self) -> Mapping[str, Any]:
        if self.away:
            raise PeerUnreachableError("away")
        return {"kubeletconfig": {"evictionHard": {"nodefs.available": self.share}}}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


@pytest.fixture
def kubelet() -> Kubelet:
    return Kubelet()


@pytest.fixture
def preflight(tmp_path: Path, ledger: Ledger, kubelet: Kubelet) -> DiskPreflight:
    for name in ("store", "var/lib/kubelet"):
        (tmp_path / name).mkdir(parents=True)
    made = DiskPreflight(tmp_path, ledger, StillClock(), lambda: 0, kubelet.configz)
    made.root = tmp_path
    return made


def told(ledger: Ledger) -> list[bool]:
    found = ledger.read(lambda db: list(streams.waiting(db, Stream.EVENTS, 100)))
    return [r.record["body"]["likely"] for r in found]


def test_before_a_look_nothing_is_known(preflight: DiskPreflight) -> None:
    assert preflight.to_wire()["likely"] is None


def test_a_change_is_told_once_and_its_end_too(
    preflight: DiskPreflight, ledger: Ledger, kubelet: Kubelet
) -> None:
    changes: list[bool | None] = []
    preflight.on_change = lambda found: changes.append(found.likely)
    for share in ("0%", "100%", "100%", "0%", "0%"):
        kubelet.share = share
        preflight.look_now()
    assert told(ledger) == changes == [True, False]


def test_it_is_shown_with_what_to_do(preflight: DiskPreflight, kubelet: Kubelet) -> None:
    kubelet.share = "100%"
    preflight.look_now()
    found = preflight.to_wire()
    assert found["likely"] is True
    assert found["message"].endswith("Gi or more")
    assert found["floor_bytes"] > 0


def test_a_server_that_is_away_leaves_the_kubelets_files(
    preflight: DiskPreflight, kubelet: Kubelet, tmp_path: Path
) -> None:
    kubelet.away = True
    (tmp_path / "var/lib/kubelet/config.yaml").write_text("evictionHard: {nodefs.available: 100%}")
    preflight.look_now()
    assert preflight.outlook.likely is True


def test_a_threshold_nobody_can_read_is_not_known(
    preflight: DiskPreflight, kubelet: Kubelet
) -> None:
    kubelet.share = "plenty"
    preflight.look_now()
    assert preflight.outlook.likely is None
