"""Which file systems the kubelet watches, and where its thresholds are read."""

from pathlib import Path
from typing import Any

import pytest

from appliance.hardware.kubelet import thresholds, watched
from appliance.planner.pressure import K3S_DEFAULTS, KUBELET_DEFAULTS

K3S = "var/lib/rancher/k3s/agent/etc/kubelet.conf.d"


def folders(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)


def config(root: Path, name: str, text: str) -> None:
    folders(root, str(Path(name).parent))
    (root / name).write_text(text)


@pytest.fixture
def other_disk(tmp_path: Path) -> Path:
    found = Path("/sys")
    if found.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/sys is not a file system of its own here")
    return found


def test_without_a_kubelet_nothing_is_known(tmp_path: Path) -> None:
    assert watched(tmp_path, tmp_path) is None


def test_one_disk_is_both(tmp_path: Path) -> None:
    folders(tmp_path, "store", "var/lib/kubelet", "var/lib/containerd")
    found = watched(tmp_path / "store", tmp_path)
    assert found is not None
    assert found.signals == {"nodefs", "imagefs"}
    assert 0 < found.free <= found.total


def test_images_without_a_disk_of_their_own_lie_with_the_rest(tmp_path: Path) -> None:
    folders(tmp_path, "store", "var/lib/kubelet")
    found = watched(tmp_path / "store", tmp_path)
    assert found is not None
    assert found.signals == {"nodefs", "imagefs"}


def test_a_disk_of_its_own_is_not_watched(tmp_path: Path, other_disk: Path) -> None:
    folders(tmp_path, "var/lib/kubelet", "var/lib/containerd")
    found = watched(other_disk, tmp_path)
    assert found is not None
    assert found.signals == frozenset()


def test_the_disk_of_images_alone_is_imagefs(tmp_path: Path, other_disk: Path) -> None:
    folders(tmp_path, "store", "var/lib/containerd", "var/lib")
    (tmp_path / "var/lib/kubelet").symlink_to(other_disk)
    found = watched(tmp_path / "store", tmp_path)
    assert found is not None
    assert found.signals == {"imagefs"}


def test_the_documented_defaults_hold_where_nothing_is_said(tmp_path: Path) -> None:
    assert thresholds(None, tmp_path) == (KUBELET_DEFAULTS,)
    folders(tmp_path, "var/lib/rancher/k3s")
    assert thresholds(None, tmp_path) == (K3S_DEFAULTS,)


def test_the_kubelets_own_word_wins_over_its_files(tmp_path: Path) -> None:
    config(tmp_path, "var/lib/kubelet/config.yaml", "evictionHard: {nodefs.available: 7%}\n")
    assert thresholds(None, tmp_path) == ({"nodefs.available": "7%"},)
    said: dict[str, Any] = {"evictionHard": {"nodefs.available": "8%"}, "evictionSoft": None}
    assert thresholds(said, tmp_path) == ({"nodefs.available": "8%"},)


def test_drop_ins_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    config(tmp_path, f"{K3S}/00-k3s-defaults.conf", "evictionHard: {nodefs.available: 5%}\n")
    config(tmp_path, f"{K3S}/50-site.conf", "evictionHard: {nodefs.available: 9%}\n")
    config(tmp_path, f"{K3S}/60-soft.conf", "evictionSoft: {nodefs.available: 12%}\n")
    config(tmp_path, f"{K3S}/70-broken.conf", "evictionHard: [\n")
    assert thresholds(None, tmp_path) == (
        {"nodefs.available": "9%"},
        {"nodefs.available": "12%"},
    )
