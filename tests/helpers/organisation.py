"""An organisation with keys, and bundles of small models that it signed."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.format import content
from appliance.bundle.make import build as builder
from appliance.bundle.take.accept import Importer, ImportParts
from appliance.bundle.take.answers import AnswerTaker
from appliance.bundle.take.intake import Housekeeping
from appliance.bundle.take.receipts import ReceiptBook
from appliance.cache.store import ModelStore
from appliance.core.ids import NodeId
from appliance.kit.clock import Clock, SystemClock
from appliance.ledger.db import Ledger
from appliance.node import identity
from appliance.trust.keys import SigningKey
from appliance.trust.repository import Repository
from appliance.trust.store import TrustStore
from tests.helpers.gguf import write_small_llama

ORG = "acme"


@dataclass
class Organisation:
    """Keys, a hub's public keys, and a way to build bundles."""

    folder: Path
    repository: Repository
    director: SigningKey
    sync: SigningKey

    @classmethod
    def create(cls, folder: Path) -> "Organisation":
        folder.mkdir(parents=True, exist_ok=True)
        repository = Repository.init_solo(folder / "keys", ORG, _now())
        director = SigningKey.create(folder / "director.pem")
        sync = SigningKey.create(folder / "sync.pem")
        made = cls(folder, repository, director, sync)
        repository.name_director(
            {"org": ORG, "epoch": 1, "director": director.public, "sync": sync.public}
        )
        return made

    @property
    def root(self) -> bytes:
        return self.repository.roots[0].read_bytes()

    def bundle(
        self, name: str = "small", version: str = "1.0.0", body: bytes = b"\0" * 4096
    ) -> Path:
        """Build a bundle of one small model; its folder is new each time."""
        number = len(list(self.folder.glob("bundle-*")))
        sources = self.folder / f"sources-{number}"
        sources.mkdir()
        write_small_llama(sources / "model.gguf", body)
        definition = sources / f"{name}.yaml"
        definition.write_text(
            "apiVersion: edge-appliance.dev/v1alpha1\nkind: BundleDefinition\n"
            f"metadata: {{name: {name}}}\nspec:\n  version: {version}\n  models:\n"
            f"    - {{name: {name}, version: {version}, publisher: {ORG}, licence: MIT,\n"
            "       variants: [{name: Q4_0, source: {file: model.gguf}}]}\n"
        )
        cache = self.folder / "cache"
        builder.lock(builder.read_definition(definition), cache)
        built = builder.build(
            builder.read_definition(definition),
            self.folder / f"bundle-{number}",
            self.repository,
            cache,
            _now(),
        )
        return built.folder


@dataclass
class Node:
    """A node's state folder, opened."""

    state: Path
    ledger: Ledger
    trust: TrustStore
    store: ModelStore
    importer: Importer
    receipts: ReceiptBook
    answers: AnswerTaker

    @classmethod
    def create(cls, state: Path, root: bytes, clock: Clock | None = None) -> "Node":
        identity.create(state, NodeId("box-1"), root)
        return cls.open(state, clock)

    @classmethod
    def open(cls, state: Path, clock: Clock | None = None) -> "Node":
        """Open a state folder that was made before."""
        me, clock = identity.load(state), clock or SystemClock()
        trust, store = TrustStore(state / "tuf"), ModelStore(state)
        store.init()
        ledger = Ledger(state / "node.db")
        quick = Housekeeping(look=content.look)  # what confines it has tests of its own
        book = ReceiptBook(me.node, me.key, ledger, trust, clock, store.blobs.all)
        answers = AnswerTaker(me.node, me.key.public, ledger, trust, clock)
        parts = ImportParts(state, trust, store, ledger, clock, book, answers, quick)
        return cls(state, ledger, trust, store, Importer(parts), book, answers)

    def close(self) -> None:
        self.ledger.close()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
