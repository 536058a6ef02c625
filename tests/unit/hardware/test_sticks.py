"""Mounted sticks, by the names that people know them by, from what the kernel and udev say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.hardware import sticks
from appliance.hardware.sticks import Stick

DATA = Path(__file__).parents[2] / "data" / "sticks"
USB = "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with a disk of its own (259), a stick (8:17), a card reader's disk (8:33)."""
    files = {
        "proc/self/mountinfo": (DATA / "mountinfo.txt").read_text(),
        "run/udev/data/b8:17": (DATA / "udev-8:17.txt").read_text(),
        "sys/devices/pci0000:00/nvme0/nvme0n1/removable": "0\n",
        "sys/devices/pci0000:00/nvme0/nvme0n1/nvme0n1p1/partition": "1\n",
        f"{USB}/serial": "0401396C\n",
        f"{USB}/block/sdb/removable": "1\n",
        f"{USB}/block/sdb/sdb1/partition": "1\n",
        "sys/devices/pci0000:00/mmc/block/sdc/removable": "1\n",
        "sys/devices/pci0000:00/mmc/block/sdc/sdc1/partition": "1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    devices = {
        "259:1": "sys/devices/pci0000:00/nvme0/nvme0n1/nvme0n1p1",
        "8:17": f"{USB}/block/sdb/sdb1",
        "8:33": "sys/devices/pci0000:00/mmc/block/sdc/sdc1",
    }
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    for number, target in devices.items():
        (tmp_path / "sys/dev/block" / number).symlink_to(tmp_path / target)
    return tmp_path


def test_sticks_are_told_from_disks_and_named_by_label_and_serial(machine: Path) -> None:
    stick, card = sticks.mounted(machine)
    assert stick == Stick(Path("/media/line 4"), "vfat", "LINE 4", "0401396C", ())
    assert stick.name == "stick LINE 4 0401396C"
    assert (card.folder, card.label, card.serial) == (Path("/media/rescue"), None, None)
    assert card.name == "stick without a label without a serial"
    assert card.lacks == ("ro", "nodev", "nosuid", "noexec", "nosymfollow")


def test_without_udev_the_serial_is_the_usb_device_s(machine: Path) -> None:
    (machine / "run/udev/data/b8:17").unlink()
    stick, _ = sticks.mounted(machine)
    assert (stick.label, stick.serial) == (None, "0401396C")


def test_names_cannot_draw_on_the_screen(machine: Path) -> None:
    (machine / "run/udev/data/b8:17").write_text(
        "E:ID_FS_LABEL_ENC=a\\x1b[2J\\xe2\\x80\\xaeb\nE:ID_SERIAL_SHORT=" + "9" * 200
    )
    stick, _ = sticks.mounted(machine)
    assert stick.label == "a\\x1b[2J\\u202eb"
    assert stick.serial == "9" * 64 + "…"


def test_a_path_is_on_the_stick_that_is_mounted_nearest_above(machine: Path) -> None:
    found = sticks.mounted(machine)
    assert sticks.holding(Path("/media/line 4/bundle"), found) == found[0]
    assert sticks.holding(Path("/media/line"), found) is None


def test_a_machine_that_tells_nothing_has_none(tmp_path: Path) -> None:
    assert sticks.mounted(tmp_path) == []


def test_this_machine_can_be_asked() -> None:
    assert isinstance(sticks.mounted(), list)


@given(st.text(st.characters(codec="utf-8")) | st.text(" -/\n\\0459:,arowvfat"))
def test_no_text_breaks_the_parsers(text: str) -> None:
    list(sticks.parse_mountinfo(text))
    sticks.parse_udev(text)
