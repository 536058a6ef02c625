"""Environments as pip makes them, of small wheels; a whole controller is in the e2e tests."""

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from appliance.core.ids import Digest
from appliance.errors import ApplianceError, MalformedError, NoSpaceError
from appliance.kit.files import locked
from appliance.software.shelf import Shelf, Staged
from appliance.software.staging import stage

pytestmark = pytest.mark.slow

WANTED = Staged("1.2.0", "files/controller/x/1.2.0", Digest("sha256:0"))


def small_wheel(folder: Path, *, needs: str = "", says: str = "1.2.0") -> tuple[str, Path]:
    """Make a wheel of a project of our name that prints its version; return its name and blob."""
    info = "edge_ai_appliance-1.2.0.dist-info"
    about = "Metadata-Version: 2.1\nName: edge-ai-appliance\nVersion: 1.2.0\n"
    needed = f"Requires-Dist: {needs}\n" if needs else ""
    files = {
        "small.py": f"def main():\n    print({says!r})\n",
        f"{info}/METADATA": about + needed,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nappliance = small:main\n",
    }  # fmt: skip
    lines = [f"{name},sha256={_hash(text)},{len(text)}" for name, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"])
    path = folder / "wheel"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    blob = path.rename(folder / hashlib.sha256(path.read_bytes()).hexdigest())
    return "edge_ai_appliance-1.2.0-py3-none-any.whl", blob


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def refused(shelf: Shelf, files: list[tuple[str, Path]], says: str) -> None:
    """It is refused, and nothing is left."""
    with pytest.raises(MalformedError, match=says):
        stage(shelf, WANTED, files)
    assert not shelf.place("1.2.0").exists()


def test_an_environment_is_made_and_marked(tmp_path: Path) -> None:
    shelf, told = Shelf(tmp_path), list[str]()
    stage(shelf, WANTED, [small_wheel(tmp_path)], told.append)
    assert shelf.versions() == [WANTED]
    assert (shelf.place("1.2.0") / "bin" / "appliance").exists()
    assert not (shelf.place("1.2.0") / "wheels").exists()
    assert told[-1] == "writing it to the disk"


def test_other_bytes_than_those_that_were_signed_are_not_installed(tmp_path: Path) -> None:
    name, blob = small_wheel(tmp_path)
    other = blob.rename(tmp_path / ("0" * 64))
    refused(Shelf(tmp_path), [(name, other)], "cannot be installed here.*Expected sha256 0000")


def test_a_controller_without_what_it_needs_is_refused(tmp_path: Path) -> None:
    files = [small_wheel(tmp_path, needs="h11>=0.16")]
    refused(Shelf(tmp_path), files, "not complete.*requires h11")


def test_one_that_calls_itself_otherwise_is_refused(tmp_path: Path) -> None:
    refused(Shelf(tmp_path), [small_wheel(tmp_path, says="9")], "calls itself '9'")


def test_space_and_the_turn_are_asked_for_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, files = Shelf(tmp_path), [small_wheel(tmp_path)]
    shelf.init()
    with locked(shelf.staging_lock, what="it"), pytest.raises(ApplianceError, match="in use"):
        stage(shelf, WANTED, files)
    monkeypatch.setattr("appliance.kit.files.free_bytes", lambda _: 1 << 20)
    with pytest.raises(NoSpaceError):
        stage(shelf, WANTED, files)
    assert not shelf.place("1.2.0").exists()
