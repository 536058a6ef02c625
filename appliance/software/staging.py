"""Making an environment of wheels, offline, beside the one that runs.

It is made where it will stay, for its scripts name their interpreter by path. The mark that is
written last, when all else has reached the disk, tells a finished one from what a power cut left.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.core.ids import Digest
from appliance.errors import ApplianceError, MalformedError, NoSpaceError
from appliance.kit.files import locked, make_folder, require_space, translated
from appliance.software.shelf import Shelf, Staged
from appliance.software.wheels import Wheel, requirements

_UNPACKED = 5
"""How much larger than its wheels an environment is, with its bytecode and pip."""

_PIP_BYTES = 32 << 20
_STEP_S = 600.0
_TAIL = 300


def stage(
    shelf: Shelf,
    staged: Staged,
    files: Iterable[tuple[str, Path]],
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Make the environment of one version; one that is there already is made anew.

    Args:
        shelf: Where it goes.
        staged: What it is called, and who vouched for it.
        files: Each wheel's name, and the blob that holds it; a blob is named by its digest.
        tell: Told what is being done.

    Raises:
        LockedError: somebody else stages a version now.
        NoSpaceError, StateUnusableError: it could not be written.
        MalformedError: the wheels do not make a controller of this version on this machine.
    """
    found = list(files)
    wheels = [Wheel(name, digest_of(blob)) for name, blob in found]
    wanted = requirements(wheels, staged.version)
    size = sum(blob.stat().st_size for _, blob in found)
    shelf.init()
    with locked(shelf.staging_lock, what="the staging of controllers"):
        require_space(shelf.folder, _UNPACKED * size + _PIP_BYTES, what=f"the {staged.version}")
        with _or_nothing(shelf, staged.version) as folder:
            tell("making the environment")
            _make(folder, found, wanted, tell)
            tell("trying it")
            _try(folder, staged.version)
            tell("writing it to the disk")
            os.sync()  # thousands of small files: one for all is faster than each its own
            shelf.mark(staged)


def digest_of(blob: Path) -> Digest:
    """Return the digest that a blob in the store is named by."""
    return Digest(f"sha256:{blob.name}")


@contextmanager
def _or_nothing(shelf: Shelf, version: str) -> Iterator[Path]:
    shelf.remove(version)
    try:
        with translated(f"making {shelf.place(version)}"):
            yield shelf.place(version)
    except BaseException:
        shelf.remove(version)
        raise


def _make(
    folder: Path, files: Sequence[tuple[str, Path]], wanted: str, tell: Callable[[str], None]
) -> None:
    _run([sys.executable, "-I", "-m", "venv", str(folder)], "an environment cannot be made here")
    wheels = folder / "wheels"
    make_folder(wheels)
    for name, blob in files:
        (wheels / name).symlink_to(blob.resolve())
    (wheels / "requirements.txt").write_text(wanted)
    tell("installing")
    options = [
        "--no-index",
        "--no-deps",
        "--require-hashes",
        "--no-cache-dir",
        "--only-binary=:all:",
    ]
    words = [
        "install",
        *options,
        "--find-links",
        str(wheels),
        "-r",
        str(wheels / "requirements.txt"),
    ]
    _pip(folder, words, "its wheels cannot be installed here")
    _pip(folder, ["check"], "its wheels are not complete")
    shutil.rmtree(wheels)


def _try(folder: Path, version: str) -> None:
    said = _run([str(folder / "bin" / "appliance"), "--version"], "it does not start").strip()
    if said != version:
        raise MalformedError(f"the controller {version} calls itself {said[:100]!r}")


def _pip(folder: Path, words: Sequence[str], trouble: str) -> None:
    _run([str(folder / "bin" / "python"), "-I", "-m", "pip", *words], trouble)


def _run(command: Sequence[str], trouble: str) -> str:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=_STEP_S, check=False, cwd="/", umask=0o022,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ApplianceError(f"{trouble}: no end after {_STEP_S:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    said = " ".join((done.stderr.strip() or done.stdout.strip())[-_TAIL:].split())
    if "No space left" in said:
        raise NoSpaceError(f"{trouble}: {said}", hint="free some space in the state folder")
    raise MalformedError(f"{trouble}: {said}", hint="what runs goes on; ask for another bundle")
