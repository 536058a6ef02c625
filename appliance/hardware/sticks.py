"""Sticks: removable file systems that are mounted, by the names that people know them by.

Read from what the kernel and udev say; nothing on a stick is opened here. Label and serial come
from whoever made or wrote the stick, so they are escaped before anybody sees them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.core.plain import plain

FILE_SYSTEMS = ("vfat", "exfat")
WANTED_OPTIONS = ("ro", "nodev", "nosuid", "noexec", "nosymfollow")
"""How a stick should be mounted: TRUST, Sticks."""
_LONGEST_NAME = 64
_OCTAL = re.compile(r"\\([0-7]{3})")
_HEX = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system, as ``/proc/self/mountinfo`` has it."""

    device: str
    root: str
    folder: Path
    kind: str
    options: frozenset[str]


@dataclass(frozen=True, slots=True)
class Stick:
    """A mounted stick. ``None`` is "not known"; names are fit to be shown."""

    folder: Path
    kind: str
    label: str | None
    serial: str | None
    lacks: tuple[str, ...]
    """Which of ``WANTED_OPTIONS`` it is mounted without."""

    @property
    def name(self) -> str:
        """What to call it on a screen and in a queue."""
        return f"stick {self.label or 'without a label'} {self.serial or 'without a serial'}"


def mounted(root: Path = Path("/")) -> list[Stick]:
    """Return the mounted sticks, each once; ``root`` is where ``proc``, ``sys`` and ``run`` are."""
    text = _text(root / "proc/self/mountinfo") or ""
    found: dict[str, Stick] = {}
    for mount in parse_mountinfo(text):
        if mount.kind in FILE_SYSTEMS and mount.root == "/" and mount.device not in found:
            stick = _stick(root, mount)
            if stick is not None:
                found[mount.device] = stick
    return list(found.values())


def holding(path: Path, sticks: list[Stick]) -> Stick | None:
    """Return the stick that a path lies on."""
    on = [stick for stick in sticks if path.is_relative_to(stick.folder)]
    return max(on, key=lambda stick: len(stick.folder.parts), default=None)


def parse_mountinfo(text: str) -> Iterator[Mount]:
    """Yield the mounts in ``/proc/self/mountinfo``; a line that is none is passed over."""
    for line in text.splitlines():
        words = line.split(" ")
        if "-" not in words[6:] or len(words) < 9:
            continue
        after = words.index("-", 6) + 1
        if len(words) < after + 3:
            continue
        options = frozenset(words[5].split(",")) | frozenset(words[after + 2].split(","))
        yield Mount(words[2], _plain(words[3]), Path(_plain(words[4])), words[after], options)


def parse_udev(text: str) -> dict[str, str]:
    """Return the properties in one of udev's files on a device."""
    lines = (line[2:].partition("=") for line in text.splitlines() if line.startswith("E:"))
    return {name: value for name, _, value in lines}


def _stick(root: Path, mount: Mount) -> Stick | None:
    device = root / "sys/dev/block" / mount.device
    try:
        device = device.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    if not _is_removable(device):
        return None
    told = parse_udev(_text(root / "run/udev/data" / f"b{mount.device}") or "")
    return Stick(
        mount.folder,
        mount.kind,
        _name(_label(told)),
        _name(told.get("ID_SERIAL_SHORT") or _serial(device)),
        tuple(option for option in WANTED_OPTIONS if option not in mount.options),
    )


def _is_removable(device: Path) -> bool:
    """Whether it can be pulled; a partition's disk says so, and disks behind USB never do."""
    if any(part.startswith("usb") for part in device.parts):
        return True
    return any((_text(d / "removable") or "").strip() == "1" for d in (device, device.parent))


def _label(told: Mapping[str, str]) -> str | None:
    """Return the label as it was written; udev's other one has all that is odd replaced."""
    encoded = told.get("ID_FS_LABEL_ENC")
    if encoded is None:
        return told.get("ID_FS_LABEL")
    plain = _HEX.sub(lambda found: bytes([int(found[1], 16)]), encoded.encode(errors="replace"))
    return plain.decode(errors="replace")


def _serial(device: Path) -> str | None:
    """Return the serial of the nearest device above that has one, such as a USB stick's."""
    for folder in (device, *device.parents):
        if folder.name in ("devices", "block", "sys"):
            continue
        if (found := _text(folder / "serial")) and found.strip():
            return found
    return None


def _name(text: str | None) -> str | None:
    return plain(text.strip(), _LONGEST_NAME) or None if text is not None else None


def _plain(word: str) -> str:
    """Return a path as it is: the kernel writes spaces and the like as octal numbers."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), word)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
