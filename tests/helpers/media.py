"""Media that fail, as sticks do."""

import io
from typing import Any

import pytest


def wear(
    monkeypatch: pytest.MonkeyPatch, path: str = "", *, after: int = 0, before: int = 0
) -> None:
    """Have files in bundles, or the one whose path ends so, open and then not give their bytes.

    Those before ``after`` are given, or those from ``before`` on.
    """
    whole = io.FileIO.readinto

    def readinto(self: io.FileIO, buffer: Any, /) -> int | None:
        if not getattr(self, "_path", "-").endswith(path):
            return whole(self, buffer)
        if self.tell() < before or (not before and self.tell() >= after):
            raise OSError(5, "Input/output error")
        return whole(self, memoryview(buffer)[: after - self.tell()] if after else buffer)

    monkeypatch.setattr("appliance.bundle.medium.read_into", readinto)
