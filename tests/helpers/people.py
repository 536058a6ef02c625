"""People with machines of their own, who sign together by passing files from hand to hand."""

import datetime
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from appliance.bundle.make import build as builder
from appliance.bundle.make.build import Built
from appliance.cli.main import build as application
from appliance.errors import ApplianceError
from appliance.trust.repository import Repository
from tests.helpers.gguf import write_small_llama

ROOT_HOLDERS = ("anna", "ben", "carla")
APPROVERS = ("dora", "emil")
FINISHER = "finn"
PASSPHRASE = "correct horse battery"


class Machine:
    """One person's folder. Nothing on it is seen by anybody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "word").write_text(PASSPHRASE + "\n")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def run(self, *words: object) -> Result:
        """Run a command; an error of ours is raised as main() would meet it."""
        done = CliRunner().invoke(application(str(words[0])), [str(word) for word in words])
        if isinstance(done.exception, ApplianceError):
            raise done.exception
        assert done.exit_code == 0, f"{done.output} {done.exception!r}"
        return done

    def ask(self, *words: object) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def make_key(self) -> Path:
        self.run("keys", "create", self.key, "--passphrase-file", self.folder / "word")
        return self.key.with_suffix(".pub")

    def take(self, what: Path) -> Path:
        """Copy a file or folder that somebody handed over; the copy is this machine's."""
        target = self.folder / what.name
        if what == target:
            return target
        if what.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(what, target)
        else:
            shutil.copy(what, target)
        return target

    def sign_root(self, file: Path, *more: object) -> Path:
        self.run("keys", "sign", file, "--key", self.key, *self._quietly(), *more)
        return file

    def sign_bundle(self, bundle: Path, *more: object) -> Any:
        return self.ask("bundle", "sign", bundle, "--key", self.key, *self._quietly(), *more)

    def _quietly(self) -> tuple[object, ...]:
        return ("--yes", "--passphrase-file", self.folder / "word")


class Company:
    """Three holders of root, two who approve, one who finishes; root 2 of 3, targets 2 of 2."""

    def __init__(self, folder: Path) -> None:
        everybody = (*ROOT_HOLDERS, *APPROVERS, FINISHER)
        self.people = {name: Machine(folder / name) for name in everybody}
        self.keys = self[FINISHER].folder / "keys"

    def __getitem__(self, name: str) -> Machine:
        return self.people[name]

    def found(self) -> Path:
        """Hold the root ceremony; return the first root, in force at the finisher's."""
        finn = self[FINISHER]
        halves = {name: finn.take(person.make_key()) for name, person in self.people.items()}
        self.init(halves)
        passed = self.keys / "1.root.json"
        for name in ("carla", "anna"):
            passed = self[name].sign_root(self[name].take(passed))
        finn.run("keys", "adopt", self.keys, finn.take(passed))
        shutil.copy(finn.key, self.keys)
        shutil.copy(finn.key.with_suffix(".pub"), self.keys)
        return self.keys / "metadata" / "1.root.json"

    def init(self, halves: dict[str, Path]) -> Any:
        words: list[object] = []
        for role, names in (
            ("root", ROOT_HOLDERS),
            ("targets", APPROVERS),
            ("timestamp", [FINISHER]),
        ):
            for name in names:
                words += [f"--{role}", halves[name]]
        return self[FINISHER].ask("keys", "init", self.keys, "--org", "acme", *words)

    def build(self, version: str = "1.0.0", publisher: str = "acme") -> Built:
        """Build a bundle at the finisher's; it lacks the approvers' signatures."""
        return build_bundle(self[FINISHER].folder, Repository(self.keys), version, publisher)

    def sign(self, bundle: Path, turns: Sequence[str] = ("dora", "emil", "dora", FINISHER)) -> Path:
        """Pass a bundle round; return it as the last in turn holds it."""
        for name in turns:
            bundle = self[name].take(bundle)
            self[name].sign_bundle(bundle)
        return bundle


def build_bundle(
    folder: Path, repository: Repository, version: str = "1.0.0", publisher: str = "acme"
) -> Built:
    """Build a bundle of one small model with the keys that lie in a folder."""
    sources = folder / f"sources-{version}"
    sources.mkdir()
    write_small_llama(sources / "model.gguf", version.encode() * 64)
    path = sources / "small.yaml"
    path.write_text(
        "apiVersion: edge-appliance.dev/v1alpha1\nkind: BundleDefinition\n"
        f"metadata: {{name: small}}\nspec:\n  version: {version}\n  models:\n"
        f"    - {{name: small, version: {version}, publisher: {publisher}, licence: MIT,\n"
        "       variants: [{name: Q4_0, source: {file: model.gguf}}]}\n"
    )
    builder.lock(builder.read_definition(path), folder / "cache")
    definition = builder.read_definition(path)
    output = folder / f"bundle-{version}"
    now = datetime.datetime.now(datetime.UTC)
    return builder.build(definition, output, repository, folder / "cache", now)
