"""64 MiB held back, so that a full disk never keeps what must be recorded from being recorded."""

import contextlib
import logging
import os
from pathlib import Path

from appliance.errors import NoSpaceError
from appliance.kit.files import free_bytes, require_space, translated

log = logging.getLogger(__name__)
RESERVE_BYTES = 64 << 20
FULL_BELOW = 1 << 20
"""Bytes: a disk with less free space is full."""


class Reserve:
    """A file that takes up space until it is needed."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size

    @property
    def is_held(self) -> bool:
        """Whether the reserve is there, whole: who was killed while taking it left less."""
        try:
            return self._path.stat().st_size >= self._size
        except FileNotFoundError:
            return False

    def hold(self) -> None:
        """Take the space, all of it or nothing.

        Raises:
            NoSpaceError: there is not enough.
            StateUnusableError: the folder cannot be written.
        """
        if self.is_held:
            return
        require_space(self._path.parent, self._size, what="the reserve")
        with translated(f"reserving space at {self._path}"):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            except BaseException:
                self._path.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def use(self) -> None:
        """Give the space free for what must be recorded; new effects are refused from now on."""
        if self._path.exists():  # half of one too, of who was killed while taking it
            log.error("the disk is full: the reserve is in use and new effects are refused")
            self._path.unlink(missing_ok=True)

    def use_if_full(self) -> None:
        """Give the space free when the disk is full. It writes nothing: call it before who does.

        Raises:
            StateUnusableError: the folder cannot be looked at, or not be written.
        """
        with translated(f"looking after {self._path}"):
            if self._path.exists() and free_bytes(self._path.parent) < FULL_BELOW:
                self.use()

    def restore(self) -> None:
        """Hold the reserve again once twice its size is free."""
        if not self.is_held and free_bytes(self._path.parent) > 2 * self._size:
            with contextlib.suppress(NoSpaceError):  # somebody was quicker: it stays in use
                self.hold()
                log.warning("there is space again: the reserve is held and effects are accepted")

    def require(self) -> None:
        """Refuse an effect while the disk is so full that the reserve is in use.

        Raises:
            NoSpaceError: it is.
        """
        if not self.is_held:
            raise NoSpaceError(
                "the disk is full, so nothing new is begun; what serves goes on",
                hint=f"free at least {2 * self._size >> 20} MiB below {self._path.parent}",
            )
