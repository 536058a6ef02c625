"""Write ``docs/reference/`` and the CRDs from the code.

With ``--check``, only say whether they are current.
"""

import ast
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import typer

from appliance import errors, settings
from appliance.cli.main import build
from appliance.core import quantity, reading
from appliance.kube.objects import crd

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
DEFINITIONS = ROOT / "manifests" / "base" / "crds"
NOTE = "<!-- Written by `make docs` from the code. Do not edit. -->\n"


def main() -> int:
    """Write the pages and manifests, or compare them."""
    pages = {
        "cli.md": cli(),
        "documents.md": documents(),
        "errors.md": error_codes(),
        "security.md": security(),
        "settings.md": setting_groups(),
    }
    wanted = {REFERENCE / name: text for name, text in pages.items()}
    wanted |= {DEFINITIONS / name: text for name, text in crd.files().items()}
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text() != text]
    if "--check" in sys.argv:
        if stale:
            named = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            print(f"not current: {named}; run make docs")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    return 0


def security() -> str:
    """Return the page of defences with what is made from the corpus of attacks in its places."""
    sys.path.insert(0, str(ROOT))  # the corpus belongs to the tests, which are not installed
    os.environ["PYTHONPATH"] = str(ROOT)
    from tests.attacks import page  # noqa: PLC0415

    return page.filled((REFERENCE / "security.md").read_text())


def cli() -> str:
    """Return the page of all commands."""
    root = typer.main.get_command(build())
    lines = [NOTE, "# Commands\n"]
    for path, command in _commands(root, ()):
        context = _context(path)
        lines.append(f"## {' '.join(path)}\n\n{command.help or ''}\n")
        lines.append(f"    {command.get_usage(context).removeprefix('Usage: ')}\n")
        rows = [p.get_help_record(context) for p in command.params]
        found = [row for row in rows if row is not None and row[0] != "--help, -h"]
        if found:
            lines.append("| option or argument | what |\n| --- | --- |")
            lines += [f"| `{name}` | {_cell(text or '')} |" for name, text in dict(found).items()]
            lines.append("")
    return "\n".join(lines)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    here = (*path, command.name)
    children = getattr(command, "commands", {})
    if not children:
        yield here, command
    for child in children.values():
        yield from _commands(child, here)


def _context(path: tuple[str, ...]) -> Any:
    command = typer.main.get_command(build())
    return command.make_context(" ".join(path), ["--help"], resilient_parsing=True)


def documents() -> str:
    """Return the page of all kinds and their fields."""
    lines = [NOTE, "# Documents\n", "`appliance schema KIND` prints the JSON schema of a kind.\n"]
    for kind, document in reading.KINDS.items():
        lines.append(f"## {kind}\n\n{inspect.getdoc(document)}\n")
        lines.append("| field | allowed | what |\n| --- | --- | --- |")
        schema = document.model_json_schema(by_alias=True)
        lines += [
            f"| `{name}` | {_cell(_allowed(node))} | {_cell(node.get('description', ''))} |"
            for name, node in _fields(schema, schema, "")
        ]
        lines.append("")
    return "\n".join(lines)


def _fields(
    schema: dict[str, Any], node: dict[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, below in node.get("properties", {}).items():
        found = reading.resolve(schema, below)
        path = f"{prefix}.{name}".lstrip(".")
        if found.get("type") == "array":
            inner = reading.resolve(schema, found["items"])
            yield f"{path}[]", {**found, **{k: v for k, v in inner.items() if k == "enum"}}
            yield from _fields(schema, inner, f"{path}[]")
        elif "properties" in found:
            yield from _fields(schema, found, path)
        else:
            yield path, found


def _allowed(node: dict[str, Any]) -> str:
    units = {quantity.BYTES_PATTERN: quantity.BYTES_ALLOWED}
    units[quantity.DURATION_PATTERN] = quantity.DURATION_ALLOWED
    units[quantity.LATENCY_PATTERN] = quantity.LATENCY_ALLOWED
    plain = {k: v for k, v in node.items() if k != "description"}
    return units.get(str(node.get("pattern"))) or reading.allowed(plain)


def error_codes() -> str:
    """Return the page of error families."""
    lines = [NOTE, "# Errors\n", "Every error of ours is printed as\n"]
    lines.append("    error[CODE]: what happened, and why\n      try: what to do next\n")
    lines.append("and ends the command with its exit status. Where the first line says it all, the")
    lines.append("second is left out.\n")
    lines.append("| exit | code | meaning |\n| --- | --- | --- |")
    for family in errors.families():
        meaning = (inspect.getdoc(family) or "").splitlines()[0]
        lines.append(f"| {family.exit_code} | `{family.code}` | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def setting_groups() -> str:
    """Return the page of settings, from the classes and the texts below their fields."""
    lines = [NOTE, "# Settings\n", (inspect.getdoc(settings) or "") + "\n"]
    for group, kind in get_type_hints(settings.Settings).items():
        lines.append(f"## [{group}]\n\n| name | default | what |\n| --- | --- | --- |")
        texts = _field_texts(kind)
        for name in get_type_hints(kind):
            default = getattr(kind(), name)
            lines.append(f"| `{name}` | `{default!r}` | {_cell(texts.get(name, ''))} |")
        lines.append("")
    return "\n".join(lines)


def _field_texts(kind: type) -> dict[str, str]:
    tree = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        is_field = isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
        if is_field and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            assert isinstance(before, ast.AnnAssign)
            assert isinstance(before.target, ast.Name)
            texts[before.target.id] = inspect.cleandoc(str(after.value.value))
    return texts


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
