"""Media that fail, as sticks do."""

import io

import pytest


def wear(monkeypatch: pytest.MonkeyPatch, path: str = "") -> None:
    """Have files in bundles, or the one whose path ends so, open and then not give their bytes."""
    whole = io.FileIO.readinto

    def readinto(self: io.FileIO, buffer: bytearray, /) -> int | None:
        if getattr(self, "_path", "-").endswith(path):
            raise OSError(5, "Input/output error")
        return whole(self, buffer)

    monkeypatch.setattr("appliance.bundle.medium.read_into", readinto)
