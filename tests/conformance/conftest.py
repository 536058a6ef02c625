"""A repository, and a client that has trusted its first root and nothing else."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tuf.api.metadata import Metadata

from tests.conformance.client import main
from tests.conformance.repository import NOW, Repository, Server


@dataclass
class Runner:
    """Runs the client's commands in this process; each returns the exit status."""

    folder: Path
    url: str

    def init(self, root: bytes) -> int:
        file = self.folder / "first_root.json"
        file.write_bytes(root)
        for name in ("metadata", "targets"):
            (self.folder / name).mkdir(exist_ok=True)
        return main(self.arguments("init", str(file)))

    def refresh(self, now: datetime.datetime = NOW) -> int:
        return main(self.arguments("refresh"), now)

    def download(self, *paths: str, now: datetime.datetime = NOW) -> int:
        names = [word for path in paths for word in ("--target-name", path)]
        return main([*names, *self.arguments("download")], now)

    def arguments(self, *command: str) -> list[str]:
        return [
            "--metadata-dir", str(self.folder / "metadata"),
            "--metadata-url", f"{self.url}/metadata/",
            "--target-dir", str(self.folder / "targets"),
            "--target-base-url", f"{self.url}/targets/",
            *command,
        ]  # fmt: skip

    def trusted(self) -> dict[str, int]:
        """Return the version of each role that the client keeps."""
        return {
            unquote(file.stem): Metadata[Any].from_file(str(file)).signed.version
            for file in (self.folder / "metadata").iterdir()
        }

    def kept(self, role: str) -> bytes:
        return (self.folder / "metadata" / f"{role}.json").read_bytes()

    def downloaded(self) -> list[bytes]:
        files = sorted((self.folder / "targets").iterdir(), key=lambda f: f.stat().st_mtime_ns)
        return [file.read_bytes() for file in files]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def repo() -> Repository:
    return Repository()


@pytest.fixture
def client(repo: Repository, server: Server, tmp_path: Path) -> Runner:
    made = Runner(tmp_path, server.add(repo))
    assert made.init(repo.served("root", 1)) == 0
    return made
