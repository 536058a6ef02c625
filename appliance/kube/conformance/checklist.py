"""The checklist: what it asks for, and the file that answers it.

The format, its four words for a status and the rule that id, description and level go back
unchanged are those of github.com/cncf/k8s-ai-conformance (``instructions.md``,
``scripts/validate.go``): evidence is a URL or a file beside the answers, notes are a must with
``N/A``, and metadata that is not known stays in square brackets, which the programme's own check
refuses until somebody fills it in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import yaml

_NAME = re.compile(r"AIConformance-(\d+)\.(\d+)\.yaml")


class Status(StrEnum):
    """The words that the programme takes."""

    YES = "Implemented"
    NO = "Not Implemented"
    PARTLY = "Partially Implemented"
    NOT_APPLICABLE = "N/A"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of the checklist."""

    id: str
    category: str
    level: str
    description: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one requirement; ``evidence`` are questions with their answers."""

    id: str
    status: Status
    notes: str
    evidence: tuple[str, ...]

    @property
    def file(self) -> str:
        """Where its evidence is written, beside the answers."""
        return f"evidence/{self.id}.txt"


@dataclass(frozen=True, slots=True)
class Checklist:
    """The requirements of one release of Kubernetes."""

    release: tuple[int, int]
    requirements: tuple[Requirement, ...]
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """The release, as people write it."""
        return f"v{self.release[0]}.{self.release[1]}"


@cache
def checklists() -> tuple[Checklist, ...]:
    """Return all that this version knows, the oldest first."""
    folder = resources.files(__package__) / "data"
    found = []
    for file in folder.iterdir():
        if named := _NAME.fullmatch(file.name):
            release = (int(named[1]), int(named[2]))
            found.append(_parse(release, yaml.safe_load(file.read_text())))
    return tuple(sorted(found, key=lambda checklist: checklist.release))


def checklist_for(release: tuple[int, int]) -> Checklist:
    """Return the newest checklist that is not newer than a server, else the oldest there is."""
    known = checklists()
    return max(
        (c for c in known if c.release <= release), default=known[0], key=lambda c: c.release
    )


def document(
    checklist: Checklist, answers: Mapping[str, Answer], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Return the answers in the programme's form, in its order, nothing left out.

    Args:
        checklist: What was asked for.
        answers: By id; one for each requirement.
        metadata: What is known; the rest stays as the checklist has it, in square brackets.
    """
    spec: dict[str, list[dict[str, Any]]] = {}
    for found in checklist.requirements:
        answer = answers[found.id]
        spec.setdefault(found.category, []).append(
            {
                "id": found.id,
                "description": found.description,
                "level": found.level,
                "status": str(answer.status),
                "evidence": [answer.file],
                "notes": answer.notes,
            }
        )
    return {"metadata": {**checklist.metadata, **metadata}, "spec": spec}


def dump(found: Mapping[str, Any]) -> str:
    """Return the file's content."""
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=10_000)


def _parse(release: tuple[int, int], data: Mapping[str, Any]) -> Checklist:
    found = tuple(
        Requirement(line["id"], category, line["level"], line["description"])
        for category, lines in data["spec"].items()
        for line in lines
    )
    return Checklist(release, found, data["metadata"])
