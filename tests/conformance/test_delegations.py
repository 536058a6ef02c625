"""Who may list a path: roles are searched in order, each with its own delegator's keys."""

from urllib.parse import quote

import pytest

from tests.conformance.conftest import Runner
from tests.conformance.repository import Repository

Edge = tuple[str, str, list[str], bool]
ANY = ["*"]


def edge(text: str, paths: list[str] | None = None, *, ends: bool = False) -> Edge:
    """Return a delegation, written as ``delegator > role``."""
    delegator, role = text.split(" > ")
    return delegator, role, paths or ANY, ends


GRAPHS: dict[str, tuple[list[Edge], str]] = {
    "one": ([edge("targets > A")], "A"),
    "two beside each other": ([edge("targets > A"), edge("targets > B")], "A B"),
    "two levels": ([edge("targets > A"), edge("targets > B"), edge("B > C")], "A B C"),
    "two levels, depth first": (
        [edge("targets > A"), edge("targets > B"), edge("A > C"), edge("A > D")],
        "A C D B",
    ),
    "three levels, depth first": (
        [edge("targets > A"), edge("targets > B"), edge("A > C"), edge("C > D")],
        "A C D B",
    ),
    "a terminating role ends the search of two levels": (
        [edge("targets > A"), edge("targets > B"), edge("A > C", ends=True), edge("A > D")],
        "A C",
    ),
    "a terminating role is searched below": (
        [edge("targets > A"), edge("targets > B"), edge("A > C", ends=True), edge("C > D")],
        "A C D",
    ),
    "a role for other paths is passed by": (
        [edge("targets > A", ["*.py"]), edge("targets > B"), edge("A > C")],
        "B",
    ),
    "a role for other paths is passed by below": (
        [edge("targets > A"), edge("targets > B"), edge("A > C", ["*.py"]), edge("C > D")],
        "A B",
    ),
    "a circle": (
        [
            edge("targets > A"), edge("targets > B"), edge("B > C"), edge("C > D"), edge("D > B"),
        ],
        "A B C D",
    ),
    "two roles to a third": (
        [edge("targets > A"), edge("targets > B"), edge("B > C"), edge("A > C")],
        "A C B",
    ),
    "two roles to a third for other paths": (
        [edge("targets > A"), edge("targets > B"), edge("B > C"), edge("A > C", ["*.py"])],
        "A B C",
    ),
}  # fmt: skip


def publish(repo: Repository, edges: list[Edge]) -> None:
    for delegator, role, paths, ends in edges:
        repo.delegate(delegator, role, paths, terminating=ends)
    roles = dict.fromkeys(role for _, role, _, _ in edges)
    repo.publish(*roles, "targets", "snapshot", "timestamp")


def searched(repo: Repository) -> str:
    """Return the delegated roles that were asked for, in order."""
    names = [name.split(".")[1] for name in repo.metadata_asked()[4:]]
    return " ".join(names)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_traversal(client: Runner, repo: Repository, name: str) -> None:
    edges, order = GRAPHS[name]
    publish(repo, edges)
    assert client.download("nobody listed it") == 1
    assert searched(repo) == order


TREE = [
    edge("targets > A", ["*.doc", "*.md", "foo-?.tgz"]),
    edge("targets > B", ["releases/*/*"]),
    edge("B > C", ["releases/x/*"]),
    edge("B > D", ["releases/y/*.zip"]),
]
LISTED = {
    "plain": "targets",
    "README.md": "A",
    "releases/README.md": "A",
    "foo-1.tgz": "A",
    "foo-alpha.tgz": "A",
    "releases/x/v1": "C",
    "releases/y/v1.zip": "D",
    "releases/z/v1.zip": "D",
}


@pytest.mark.parametrize(
    ("path", "found", "order"),
    [
        ("plain", True, ""),
        ("README.md", True, "A"),
        ("releases/x/v1", True, "B C"),
        ("releases/y/v1.zip", True, "B D"),
        ("releases/z/v1.zip", False, "B"),
        ("releases/README.md", False, ""),
        ("foo-1.tgz", True, "A"),
        ("foo-alpha.tgz", False, ""),
        ("README.MD", False, ""),
    ],
)
def test_targetfile_search(
    client: Runner, repo: Repository, path: str, order: str, *, found: bool
) -> None:
    for delegator, role, paths, ends in TREE:
        repo.delegate(delegator, role, paths, terminating=ends)
    for listed, role in LISTED.items():
        repo.add_target(listed, listed.encode(), role=role)
    repo.publish("A", "B", "C", "D", "targets", "snapshot", "timestamp")
    assert client.download(path) == (0 if found else 1)
    assert client.downloaded() == ([path.encode()] if found else [])
    assert searched(repo) == order


def test_cached_role_is_verified_against_current_delegator(
    client: Runner, repo: Repository
) -> None:
    """What a role may say through one parent it may not say through another."""
    for name in ("a", "b"):
        repo.delegate("targets", f"parent-{name}", [f"{name}/*"])
        repo.delegate(f"parent-{name}", "release", [f"{name}/*"])
        repo.add_target(f"{name}/file", name.encode(), role="release")
    repo.keys["release"].pop()  # of parent-b
    repo.publish("release", "parent-a", "parent-b", "targets", "snapshot", "timestamp")
    assert client.download("a/file", "b/file") == 1
    assert client.downloaded() == [b"a"]
    assert client.download("b/file") == 1


def test_delegation_not_in_snapshot(client: Runner, repo: Repository) -> None:
    repo.delegate("targets", "delegated")
    repo.publish("delegated", "targets")
    repo.publish("snapshot", edit=lambda s: s.meta.pop("delegated.json"))
    repo.publish("timestamp")
    assert client.refresh() == 0
    repo.asked.clear()
    assert client.download("anything") == 1
    assert repo.metadata_asked() == ["2.root.json", "timestamp.json"]
    assert "delegated" not in client.trusted()


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "..", "a b"])
def test_unusual_role_name(client: Runner, repo: Repository, role: str) -> None:
    repo.delegate("targets", role)
    repo.publish(role, "targets", "snapshot", "timestamp")
    assert client.download("nothing") == 1
    assert repo.asked[-1] == f"metadata/1.{quote(role, safe='')}.json"
    assert client.trusted() == {
        "root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, role: 1,
    }  # fmt: skip
    assert len(list((client.folder / "metadata").iterdir())) == 5


def test_a_delegated_role_below_its_threshold(client: Runner, repo: Repository) -> None:
    repo.delegate("targets", "delegated")
    repo.add_key("delegated", delegator="targets")
    assert repo.targets.delegations is not None
    assert repo.targets.delegations.roles is not None
    repo.targets.delegations.roles["delegated"].threshold = 2
    repo.add_target("file", b"contents", role="delegated")
    repo.keys["delegated"].pop()
    repo.publish("delegated", "targets", "snapshot", "timestamp")
    assert client.download("file") == 1
    assert "delegated" not in client.trusted()


def test_a_search_ends(client: Runner, repo: Repository) -> None:
    """No more roles are looked at than anyone needs."""
    names = [f"r{number}" for number in range(300)]
    for name in names:
        repo.delegate("targets", name)
    repo.publish(*names, "targets", "snapshot", "timestamp")
    assert client.download("nothing") == 1
    assert len(searched(repo).split()) == 256
