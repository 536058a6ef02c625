"""PURE: what to tell pip about the wheels of one controller.

The bundle may carry wheels for more than one kind of machine; pip takes the one that fits here. It
is told each file's hash, so that what it installs is what was signed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.core.ids import Digest, hex_of
from appliance.errors import MalformedError

_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9._+!]+)"
    r"(?:-[0-9][A-Za-z0-9._]*)?-[A-Za-z0-9._]+-[A-Za-z0-9._]+-[A-Za-z0-9._]+\.whl"
)
PROJECT = "edge-ai-appliance"


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of a controller."""

    file: str
    digest: Digest


def requirements(wheels: Iterable[Wheel], version: str) -> str:
    """Return a requirements file that allows exactly these wheels.

    Args:
        wheels: All that came.
        version: The version of this project that must be among them.

    Raises:
        MalformedError: a file is no wheel, one project comes in two versions, or ours is missing.
    """
    hashes: dict[str, set[str]] = {}
    versions: dict[str, str] = {}
    for wheel in wheels:
        found = _WHEEL.fullmatch(wheel.file)
        if found is None:
            raise MalformedError(f"{wheel.file[:100]!r} in a controller is not the name of a wheel")
        name = re.sub(r"[-_.]+", "-", found["name"]).lower()
        if versions.setdefault(name, found["version"]) != found["version"]:
            raise MalformedError(f"{name} comes with a controller in two versions")
        hashes.setdefault(name, set()).add(hex_of(wheel.digest))
    if versions.get(PROJECT) != version:
        raise MalformedError(
            f"the controller {version} brings {PROJECT} {versions.get(PROJECT, 'not at all')}"
        )
    lines = (
        " ".join([f"{name}=={versions[name]}", *(f"--hash=sha256:{h}" for h in sorted(found))])
        for name, found in sorted(hashes.items())
    )
    return "\n".join(lines) + "\n"
