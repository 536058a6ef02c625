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

    def read_into(file: io.FileIO, name: str, buffer: Any) -> int | None:
        if not name.endswith(path):
            return file.readinto(buffer)
        if file.tell() < before or (not before and file.tell() >= after):
            raise OSError(5, "Input/output error")
        return file.readinto(memoryview(buffer)[: after - file.tell()] if after else buffer)

    monkeypatch.setattr("appliance.bundle.media.medium.read_into", read_into)
