"""Controllers as a bundle carries them: wheels of this project and of all that it needs.

The wheels of others are made of what is installed here, so that nothing is fetched; they hold the
same files under the same names.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import appliance
from appliance.software.shelf import Shelf, Staged
from tests.conftest import ROOT

EXTRAS = ("engine", "hub")
PACKAGE = ROOT / "appliance"
Changes = Mapping[str, tuple[str, str]]


def project_wheel(folder: Path, version: str, changes: Changes) -> Path:
    """Build this project's wheel with another version.

    Args:
        folder: Where to build; new for each.
        version: What it calls itself.
        changes: For a file below ``appliance/``, a text in it and what to put there instead.
    """
    source = folder / "source"
    changed_package(source, version, changes)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "bundles", source / "bundles")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def changed_package(folder: Path, version: str, changes: Changes) -> None:
    """Copy this project's package into a folder, changed as for ``project_wheel``."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "appliance", folder / "appliance", ignore=ignore)
    own = {"__init__.py": (f'"{appliance.__version__}"', f'"{version}"')}
    for name, (old, new) in {**own, **changes}.items():
        path = folder / "appliance" / name
        text = path.read_text()
        changed = text.replace(old, new, 1)
        assert changed != text, f"nothing to change in {name}"
        path.write_text(changed)


def stage_beside(shelf: Shelf, whole: str, staged: Staged, changes: Changes) -> None:
    """Stage a changed package in no time: its dependencies are those of a version that is whole."""
    folder = shelf.place(staged.version)
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    changed_package(packages, staged.version, changes)
    theirs = shelf.place(whole) / packages.relative_to(folder)
    (packages / "others.pth").write_text(f"{theirs}\n")
    script = folder / "bin" / "appliance"
    script.write_text(f"#!{folder}/bin/python\nfrom appliance.cli.main import main\nmain()\n")
    script.chmod(0o755)
    shelf.mark(staged)


def others(folder: Path) -> list[Path]:
    """Make a wheel of each installed distribution that this project needs to run."""
    return [_repacked(importlib.metadata.distribution(name), folder) for name in sorted(_needed())]


def _needed() -> set[str]:
    found: set[str] = set()
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = _names([*ours["dependencies"], *(t for e in EXTRAS for t in _extra(ours, e))])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            needs = importlib.metadata.distribution(name).requires or ()
            todo |= _names(text for text in needs if "extra ==" not in text)
    return found


def _extra(project: dict[str, Any], name: str) -> list[str]:
    return list(project["optional-dependencies"][name])


def _names(requirements: Iterable[str]) -> set[str]:
    """Return the projects that are asked for, as far as they are installed here."""
    found = (re.match(r"[A-Za-z0-9._-]+", text) for text in requirements)
    names = {re.sub(r"[-_.]+", "-", name[0]).lower() for name in found if name}
    return {name for name in names if _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _repacked(found: importlib.metadata.Distribution, folder: Path) -> Path:
    tags = re.findall(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    parts = [sorted({tag.split("-")[i] for tag in tags}) for i in range(3)]
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"])
    wheel = folder / f"{name}-{found.version}-{'-'.join('.'.join(p) for p in parts)}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        record = ""
        for file in found.files or ():
            text = str(file)
            if text.startswith("..") or text.endswith((".pyc", "RECORD", "INSTALLER", "REQUESTED")):
                continue
            archive.write(Path(str(file.locate())), text)
            record += f"{text},,\n"
        info = next(str(f).split("/")[0] for f in found.files or () if str(f).endswith("/METADATA"))
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return wheel
