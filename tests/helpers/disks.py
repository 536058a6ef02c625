"""Disks whose power can be cut: ext4 on a loop mount, shut down by an ioctl."""

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

_SHUTDOWN, _WITHOUT_THE_JOURNAL = 0x8004587D, 2
_MOST_S = 20.0


class Disk:
    """A file system of its own at ``at``; to be used in a mount namespace of one's own."""

    def __init__(self, image: Path, at: Path, size: int) -> None:
        """Make and mount it.

        Raises:
            OSError: this user may not mount here.
        """
        self.at = at
        self._image = image
        with image.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        at.mkdir()
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.at))

    def cut_power(self) -> None:
        """Have ext4 forget what is not on the disk; whatever writes from now on gets EIO."""
        folder = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _WITHOUT_THE_JOURNAL))
        finally:
            os.close(folder)

    def unmount(self) -> None:
        """Unmount it, once whoever was killed is gone."""
        deadline = time.monotonic() + _MOST_S
        while True:
            try:
                _run("umount", str(self.at))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
