"""Fixtures that more than one folder of tests uses."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bundle.make import build as builder
from appliance.bundle.make.sources import Fetcher, describe
from appliance.cli.bundle import cache_folder
from tests.helpers.clusters import api, cluster, definitions, kubeconfig, namespace
from tests.helpers.organisation import Node, Organisation

__all__ = ["api", "cluster", "definitions", "kubeconfig", "namespace"]

ROOT = Path(__file__).parent.parent
DEMO_BUNDLE = ROOT / "bundles" / "demo.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="kills of each process in the chaos test")
    parser.addoption(
        "--every", type=int, default=1, help="which of an import's calls the fault tests stop at"
    )


@pytest.fixture(scope="session")
def organisation(tmp_path_factory: pytest.TempPathFactory) -> Organisation:
    return Organisation.create(tmp_path_factory.mktemp("organisation"))


@pytest.fixture(scope="session")
def small_bundle(organisation: Organisation) -> Path:
    return organisation.bundle()


@pytest.fixture
def node(tmp_path: Path, organisation: Organisation) -> Iterator[Node]:
    made = Node.create(tmp_path / "node", organisation.root)
    yield made
    made.close()


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The demo's real model, from the cache or downloaded as it is locked."""
    definition = builder.read_definition(DEMO_BUNDLE)
    locked = builder.read_lock(definition)
    ((_, variant),) = definition.variants()
    fetcher = Fetcher(cache_folder(None), DEMO_BUNDLE.parent)
    (file,) = variant.named
    return fetcher.fetch(file.source, locked[describe(file.source)]).path


def need_root() -> None:
    """Skip a test that needs what only root may do; say so."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


def need_tool(name: str) -> str:
    """Return a program's path, or skip and say which one is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (scripts/system-packages would)")
    return found
