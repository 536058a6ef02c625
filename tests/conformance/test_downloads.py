"""Targets are what was signed, or they are not there."""

import pytest

from tests.conformance.conftest import Runner
from tests.conformance.repository import Repository

ALL = ("targets", "snapshot", "timestamp")


@pytest.mark.parametrize("path", ["file.txt", "path/to/a/file.txt"])
def test_client_downloads_expected_file(client: Runner, repo: Repository, path: str) -> None:
    repo.add_target(path, b"contents")
    repo.publish(*ALL)
    assert client.refresh() == 0
    assert client.downloaded() == []
    assert client.download(path) == 0
    assert client.downloaded() == [b"contents"]


def test_repository_substitutes_target_file(client: Runner, repo: Repository) -> None:
    one, other = repo.add_target("one", b"first"), repo.add_target("other", b"second")
    repo.publish(*ALL)
    assert client.download("one") == 0
    for found in (one, other):
        repo.serve_target(found, b"something evil")
    client.download("one")
    assert client.download("other") == 1
    assert client.downloaded() == [b"first"]


def test_an_artefact_that_is_there_is_not_fetched_again(client: Runner, repo: Repository) -> None:
    repo.add_target("one", b"first")
    repo.publish(*ALL)
    for _ in range(2):
        assert client.download("one") == 0
    assert len([path for path in repo.asked if path.startswith("targets/")]) == 1
    (file,) = (client.folder / "targets").iterdir()
    file.write_bytes(b"damaged")
    assert client.download("one") == 0
    assert client.downloaded() == [b"first"]


def test_multiple_changes_to_target(client: Runner, repo: Repository) -> None:
    for number in range(6):
        data = b"contents %d" % number
        found = repo.add_target("file", data)
        repo.publish(*ALL)
        assert client.download("file") == 0
        assert client.downloaded() == [data]
        repo.serve_target(found, b"something evil")
        repo.publish(*ALL)
        client.download("file")
        assert client.downloaded() == [data]


@pytest.mark.parametrize("data", [b"contents and more", b"content"])
def test_another_length(client: Runner, repo: Repository, data: bytes) -> None:
    repo.serve_target(repo.add_target("file", b"contents"), data)
    repo.publish(*ALL)
    assert client.download("file") == 1
    assert client.downloaded() == []


@pytest.mark.parametrize("hashes", [["sha256"], ["sha512"], ["sha256", "sha512"]])
def test_download_with_hash_algorithms(client: Runner, repo: Repository, hashes: list[str]) -> None:
    repo.add_target("file", b"contents", hashes=hashes)
    repo.publish(*ALL)
    assert client.download("file") == 0
    assert client.downloaded() == [b"contents"]


def test_download_with_unknown_hash_algorithm(client: Runner, repo: Repository) -> None:
    found = repo.add_target("file", b"contents")
    found.hashes = {"of-nobody": found.hashes["sha256"]}
    repo.serve_target(found, b"contents")
    repo.publish(*ALL)
    assert client.download("file") == 1
    assert client.downloaded() == []
