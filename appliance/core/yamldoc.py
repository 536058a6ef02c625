"""YAML to plain data, with the line that each value stands on.

Tags, merge keys and repeated keys are refused, and the number of nodes is bounded, so that a short
file of nested aliases cannot fill the memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from appliance.errors import BadDocumentError

MAX_BYTES = 1 << 20
_MAX_NODES = 50_000
_TAGS = {"map", "seq", "str", "int", "float", "bool", "null", "timestamp"}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a YAML stream; ``lines`` counts from 1, the empty path is the whole."""

    data: object
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """Return the line of ``path``, or of the nearest thing around it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: str, filename: str) -> list[YamlDocument]:
    """Return the documents in ``text``, empty ones left out.

    Raises:
        BadDocumentError: not YAML, or YAML that this reader refuses; names file and line.
    """
    if len(text) > MAX_BYTES:
        raise BadDocumentError(
            f"{filename}: {len(text)} characters are more than a document may have ({MAX_BYTES})"
        )
    try:
        return list(_documents(text, filename))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{filename}:{mark.line + 1}" if mark is not None else filename
        problem = getattr(error, "problem", None) or str(error)
        raise BadDocumentError(
            f"{where}: not YAML: {problem}", hint="check the indentation and the quotes there"
        ) from error
    except RecursionError as error:
        raise BadDocumentError(f"{filename}: nested too deep to be a document of ours") from error


def _documents(text: str, filename: str) -> Iterator[YamlDocument]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            reader = _Reader(loader, filename)
            node = loader.get_node()
            data = None if node is None else reader.read(node, ())
            if data is not None:
                yield YamlDocument(data, reader.lines)
    finally:
        loader.dispose()


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, filename: str) -> None:
        self.lines: dict[Path, int] = {}
        self._loader = loader
        self._filename = filename
        self._nodes = 0

    def read(self, node: yaml.Node, path: Path) -> object:
        self._nodes += 1
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if self._nodes > _MAX_NODES:
            raise BadDocumentError(f"{self._filename}:{line}: more than {_MAX_NODES} values")
        self._require_untagged(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        try:
            found: object = self._loader.construct_object(node)
        except ValueError as error:
            raise BadDocumentError(f"{self._filename}:{line}: {error}") from error
        self._require_writable(found, line)
        return found

    def _require_writable(self, found: object, line: int) -> None:
        """Refuse what YAML can say and JSON cannot: no other process could be told."""
        where = f"{self._filename}:{line}"
        if isinstance(found, float) and not math.isfinite(found):
            raise BadDocumentError(f"{where}: {found} is not a number that can be counted with")
        if isinstance(found, str):
            try:
                found.encode()
            except UnicodeEncodeError as error:
                raise BadDocumentError(f"{where}: half of a character: {error.reason}") from error

    def _require_untagged(self, node: yaml.Node) -> None:
        """Refuse a tag that somebody wrote: PyYAML believes it, whatever the value looks like."""
        unquoted = getattr(node, "style", None) is None
        implicit = (unquoted, not unquoted) if isinstance(node, yaml.ScalarNode) else True
        plain: str = self._loader.resolve(  # type: ignore[no-untyped-call]
            type(node), node.value, implicit
        )
        if node.tag != plain or plain.rpartition(":")[2] not in _TAGS:
            where = f"{self._filename}:{node.start_mark.line + 1}"
            raise BadDocumentError(f"{where}: the tag {node.tag} is not allowed")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            line = key_node.start_mark.line + 1
            where = f"{self._filename}:{line}"
            if not isinstance(key, str):
                raise BadDocumentError(f"{where}: a key must be a plain word")
            self._require_untagged(key_node)
            self._require_writable(key, line)
            if key in found:
                raise BadDocumentError(f"{where}: {key!r} stands twice in the same place")
            self.lines[*path, key] = line
            found[key] = self.read(value_node, (*path, key))
        return found
