"""An importer that can be killed in front of any call, and the bundle that it imports."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, need_tool
from tests.helpers.clock import ScriptedClock
from tests.helpers.importing import small_node
from tests.helpers.signing import ISSUED, Draft, Signer

_SHIM = Path(__file__).parent / "shim.c"


@dataclass(frozen=True)
class Result:
    """How one import ended, after how many calls; ``refused`` is its exit status."""

    killed: bool = False
    acknowledged: bool = False
    calls: int = 0
    refused: int = 0


class Imports:
    """A process that runs imports, with the shim loaded."""

    def __init__(self, library: Path, prefix: list[str]) -> None:
        self._process = subprocess.Popen(
            [*prefix, "env", f"LD_PRELOAD={library}", f"PYTHONPATH={ROOT}", sys.executable,
             "-m", "tests.faults.imports"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def run(self, state: Path, bundle: Path, number: int = 0, error: int = 0) -> Result:
        """Import; kill it in front of a call, or have that and later calls fail with ``error``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{state} {bundle} {number} {error}\n")
        self._process.stdin.flush()
        acknowledged = False
        for line in self._process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "acknowledged":
                acknowledged = True
            elif word == "killed":
                return Result(killed=True, acknowledged=acknowledged)
            elif word == "refused":
                return Result(refused=int(rest), acknowledged=acknowledged)
            elif word == "ended":
                return Result(acknowledged=acknowledged, calls=int(rest))
            else:
                break
        raise AssertionError(f"the import failed: {line}")

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="package")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [need_tool("gcc"), "-shared", "-fPIC", "-o", str(library), str(_SHIM), "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="package")
def imports(shim: Path) -> Iterator[Imports]:
    made = Imports(shim, [])
    yield made
    made.end()


@dataclass(frozen=True)
class Story:
    """A node that has one bundle, and the next: a new root, a new model, an unchanged one."""

    template: Path
    bundle: Path


@pytest.fixture(scope="package")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    signer, clock = Signer.new(), ScriptedClock(utc=ISSUED)
    node = small_node(folder / "node", signer, clock)
    first = Draft()
    node.importer.run(first.write(folder / "1", signer), "a test")
    node.close()
    rotated = signer.rotated("timestamp")
    second = Draft(version="2.0.0", weights=first.weights + b"!" * 100_000)
    bundle = second.write(folder / "2", rotated, (2, 2, 2), also=first.listed())
    (bundle / "tuf" / "2.root.json").write_bytes(rotated.root_file(2, by=signer.root))
    return Story(folder / "node", bundle)
