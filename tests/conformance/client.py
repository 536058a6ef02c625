"""A plain TUF client over our own workflow: what a node does, without what it demands beyond TUF.

It keeps each part as soon as it was verified, as the specification says, where a node keeps all at
the end. Exit status 0 or 1.
"""

import argparse
import contextlib
import datetime
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from appliance.errors import ApplianceError, IncompleteError, MalformedError, NotFoundError
from appliance.kit.files import write_durably
from appliance.trust.workflow import CAPS, Part, Workflow, translated

_TIMEOUT_S = 30


@dataclass(frozen=True)
class Client:
    """What is trusted lies in ``folder``, one file a role, under names without versions."""

    folder: Path
    metadata_url: str = ""
    target_url: str = ""

    def init(self, root: Path) -> None:
        """Trust a first root."""
        write_durably(self.folder / "root.json", root.read_bytes())

    def refresh(self, now: datetime.datetime) -> Workflow:
        """Bring the four top-level roles up to date."""
        root = self._stored("root")
        if root is None:
            raise NotFoundError("no root is trusted yet")
        flow = Workflow(root, self._fetch, now, self._stored)
        for part in flow.roots(self._next_root):
            self._keep(part)
        for part in flow.refresh():
            self._keep(part)
        return flow

    def download(self, paths: Sequence[str], into: Path, now: datetime.datetime) -> None:
        """Fetch targets that are not there already, each verified before it has its name."""
        flow = self.refresh(now)
        for path in paths:
            target = flow.find(path, self._keep)
            if target is None:
                raise NotFoundError(f"nobody who may signed {path}")
            file = into / quote(path, safe="")
            if file.exists() and _is(target, file.read_bytes()):
                continue
            data = _get(self._address(flow, target), target.length)
            if not _is(target, data):
                raise MalformedError(f"{path} is not what was signed")
            write_durably(file, data)

    def _address(self, flow: Workflow, target: TargetFile) -> str:
        folder, slash, name = target.path.rpartition("/")
        if flow.root.consistent_snapshot:
            name = f"{next(iter(target.hashes.values()))}.{name}"
        return f"{self.target_url.rstrip('/')}/{folder}{slash}{name}"

    def _keep(self, part: Part) -> None:
        if part.is_new:
            write_durably(self._file(part.role), part.data)

    def _stored(self, role: str) -> bytes | None:
        file = self._file(role)
        return file.read_bytes() if file.exists() else None

    def _file(self, role: str) -> Path:
        return self.folder / f"{quote(role, safe='')}.json"

    def _fetch(self, name: str, cap: int) -> bytes:
        return _get(f"{self.metadata_url.rstrip('/')}/{name}", cap)

    def _next_root(self, version: int) -> bytes | None:
        with contextlib.suppress(IncompleteError):
            return self._fetch(f"{version}.root.json", CAPS["root"])
        return None


def _is(target: TargetFile, data: bytes) -> bool:
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


def _get(url: str, cap: int) -> bytes:
    """Return what a server gives for an address, at most ``cap`` bytes of it."""
    with _translated(url), urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        data: bytes = answer.read(cap + 1)
    if len(data) > cap:
        raise MalformedError(f"{url} is larger than {cap} bytes")
    return data


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (403, 404):
            raise IncompleteError(f"there is no {url}") from error
        raise MalformedError(f"{url}: {error.code}") from error
    except OSError as error:
        raise MalformedError(f"{url}: {error}") from error


def main(arguments: Sequence[str], now: datetime.datetime | None = None) -> int:
    """Carry out one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="tuf_client")
    for name in ("--metadata-url", "--target-base-url"):
        parser.add_argument(name, default="")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-name", action="append", default=[])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    asked = parser.parse_args(arguments)
    client = Client(asked.metadata_dir, asked.metadata_url, asked.target_base_url)
    now = now or datetime.datetime.now(datetime.UTC)
    try:
        with translated("a target"):
            if asked.command == "init":
                client.init(asked.root)
            elif asked.command == "refresh":
                client.refresh(now)
            else:
                client.download(asked.target_name, asked.target_dir, now)
    except (ApplianceError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
