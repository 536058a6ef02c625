"""What ``docs/reference/security.md`` says of the corpus: made from it, so that it cannot drift."""

import datetime
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import errors
from appliance.bundle.look import show
from appliance.cli import inspect
from appliance.core.ids import NodeId
from appliance.node import identity
from appliance.trust.keys import SigningKey
from tests.attacks.attack import ACCEPTED, Attack, Verdict
from tests.attacks.corpus import ATTACKS
from tests.attacks.switches import Defence
from tests.helpers.signing import ISSUED, Draft, Signer

_CODES = {family.exit_code: family.code for family in errors.families()}


def blocks() -> Mapping[str, str]:
    """Return the parts of the page that are made, by the names of their places."""
    with _elsewhere():
        shown, refused = _shown(), _refused()
    return {
        "bundle show": shown,
        "bundle import": refused,
        "attacks on an import": _table("import"),
        "attacks by envelopes": _table("envelope"),
    }


def _table(algorithm: str) -> str:
    chosen = [a for a in ATTACKS if a.step.startswith(f"{algorithm} ")]
    lines = ["| step | attack | key | protection | what stops it | ends as |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    lines += [_row(a) for a in sorted(chosen, key=_number)]
    return "\n".join(lines)


def _number(found: Attack) -> int:
    return int(found.step.partition(" ")[2])


def _row(a: Attack) -> str:
    stops = _named(a.defence)
    if a.twin is not None:
        stops += f"; and, alone as well, {_named(a.twin)}"
    if a.rests_on:
        stops += "; rests on: " + ", ".join(other.what for other in a.rests_on)
    attack = f"{a.what} (`{a.name}`)"
    return f"| {_number(a)} | {attack} | {a.row} | {a.kind} | {stops} | {_outcome(a.verdict)} |"


def _named(defence: Defence) -> str:
    return f"{defence.what} (`{defence.where}`)"


def _outcome(verdict: Verdict) -> str:
    if isinstance(verdict, int):
        return f"{verdict} `{_CODES[verdict]}`"
    return "the good bundle is taken in" if verdict == ACCEPTED else verdict


# --- what people see ------------------------------------------------------------------------------


def _signer() -> Signer:
    """Return keys that are the same every time, so that the page is."""
    root, targets = (_keys(role, 2) for role in ("root", "targets"))
    thresholds = {"root": 2, "targets": 2, "snapshot": 2}
    return Signer(root, targets, _keys("timestamp", 1), thresholds)


def _keys(role: str, count: int) -> list[SigningKey]:
    seeds = (hashlib.sha256(f"{role} {number}".encode()).digest() for number in range(count))
    return [SigningKey(Ed25519PrivateKey.from_private_bytes(seed)) for seed in seeds]


@contextmanager
def _elsewhere() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _shown() -> str:
    signer = _signer()
    folder = Draft().write(Path("stick"), signer)
    site = show.Site(signer.root_file())
    found = show.show(folder, site, ISSUED + datetime.timedelta(days=1))
    return _screen("appliance bundle show stick --root 1.root.json", inspect._bundle_lines(found))


def _refused() -> str:
    signer, now = _signer(), datetime.datetime.now(datetime.UTC)
    thief = {"targets": signer.targets[:1]}
    Draft().write(Path("thief"), signer, issued=now, by=thief)
    identity.create(Path("node"), NodeId("box-1"), signer.root_file())
    words = ["bundle", "import", "thief", "--state-dir", "node"]
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *words], capture_output=True, text=True, check=False
    )
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    return _screen("appliance bundle import thief; echo $?", [*lines, str(done.returncode)])


def _screen(command: str, lines: list[str]) -> str:
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    return f"```console\n$ {command}\n{text}\n```"


def filled(text: str) -> str:
    """Return the page with its places filled anew."""
    for name, made in blocks().items():
        begin, end = f"<!-- {name}: written by `make docs` -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"the page has no place for {name}")
        text = f"{before}{begin}{made}\n{end}{rest.partition(end)[2]}"
    return text
