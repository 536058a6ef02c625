"""What an attack is, and the scene on which it takes place.

An attack is a function that is given a ``Scene``: a node, and the keys of its organisation. It
leaves the node as the attacker finds it, and returns what is offered: a bundle's folder, or a
function that does something else to a node. It must be right in every respect but one, so that one
defence decides; ``test_defences`` proves that, by switching each defence off in turn.
"""

import datetime
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.core import wire
from appliance.errors import ApplianceError
from appliance.node import identity
from appliance.trust.envelope import Addressee, Slot, seal
from appliance.trust.keys import SigningKey
from tests.attacks.switches import Defence
from tests.helpers.clock import ScriptedClock
from tests.helpers.importing import imported, keep_house, small_node
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, ORG, Draft, Signer, new_key

Verdict = int | str
"""An exit status, or one of the words below."""

ACCEPTED = "accepted"
HELD = "held"
"""Neither refused nor followed: it waits for a bundle that brings what it names."""
HARMLESS = "no effect"
HARMED = "harmed"
FELL = "an error of Python's own"
"""Past the defence, where code that may rely on it falls over."""

DAY = datetime.timedelta(days=1)
NOW = ISSUED + DAY

Attempt = Callable[[Node], object]
"""Does it to a node. Raises what stops it, or returns a verdict; anything else is ACCEPTED."""

Prepare = Callable[["Scene"], Path | Attempt]


@dataclass(frozen=True, eq=False)
class Attack:
    """One attack, and what stops it.

    ``step`` is that of one of TRUST's two algorithms, ``row`` one of its key table, ``kind`` the
    protection's usual name. ``verdict`` holds with all defences, ``without`` when its own is off.
    ``rests_on`` are what its defence cannot do without, and ``twin`` is a second defence that
    stops it as well, so that both must be off. ``keeps``: a verified root, metadata that was
    committed before, or the floor outlives the refusal, and nothing else.
    """

    name: str
    what: str
    prepare: Prepare
    step: str
    defence: Defence
    verdict: Verdict
    row: str = ""
    kind: str = ""
    without: Verdict = ACCEPTED
    rests_on: tuple[Defence, ...] = ()
    twin: Defence | None = None
    keeps: bool = False

    def needs(self, defence: Defence) -> bool:
        """Whether it ends differently when this defence alone is off."""
        return self.twin is None and defence in (self.defence, *self.rests_on)


ALL: dict[str, Attack] = {}
"""Every attack by its name, once ``corpus`` was imported."""


def attack(
    step: str, defence: Defence, verdict: Verdict, **more: Any
) -> Callable[[Prepare], Prepare]:
    """Put a function into the corpus. Its name is the attack's, its first line says what it is."""

    def enter(prepare: Prepare) -> Prepare:
        name = prepare.__name__.strip("_").replace("_", "-")
        what = (prepare.__doc__ or "").splitlines()[0].removesuffix(".")
        assert name not in ALL, name
        assert what, f"{name} says nothing of itself"
        ALL[name] = Attack(name, what, prepare, step, defence, verdict, **more)
        return prepare

    return enter


SIGNER = Signer(
    [new_key(), new_key()],
    [new_key(), new_key()],
    [new_key()],
    thresholds={"root": 2, "targets": 2, "snapshot": 2},
)
"""The organisation: root and targets need two keys each."""

DIRECTOR, SYNC = new_key(), new_key()


def director(epoch: int = 1, org: str = ORG, **changes: Any) -> bytes:
    """Return a ``trust/director.json`` that names keys which these attacks have."""
    keys = {"keys": [DIRECTOR.public], "sync": [SYNC.public]}
    document = {"org": org, "epoch": epoch, **keys, "sites": ["*"], "verbs": [], **changes}
    return wire.dumps(document)


def good(weights: bytes | None = None, **names: str) -> Draft:
    """Return a bundle of which everything is right."""
    draft = Draft(weights, **names)
    draft.director = director()
    return draft


@dataclass
class Scene:
    """Where an attack takes place. ``at`` is what the node's clock says when it is attacked."""

    folder: Path
    node: Node
    at: datetime.datetime = NOW
    house: dict[str, Any] = field(default_factory=dict)
    _count: int = 0

    @property
    def me(self) -> Addressee:
        """Return whom the hub's words are for."""
        me = identity.load(self.node.state)
        return Addressee(ORG, me.node, me.key.public, self.node.ledger.epoch)

    def bundle(
        self,
        draft: Draft | None = None,
        versions: tuple[int, int, int] = (1, 1, 1),
        *,
        signer: Signer = SIGNER,
        roots: Sequence[bytes] = (),
        **how: Any,
    ) -> Path:
        """Write a bundle; ``roots`` are those that follow the first, ``how`` is for the signer."""
        self._count += 1
        folder = (draft or good()).write(
            self.folder / f"bundle-{self._count}", signer, versions, **how
        )
        for version, data in enumerate(roots, start=2):
            (folder / "tuf" / f"{version}.root.json").write_bytes(data)
        return folder

    def took(self, *what: Any, **how: Any) -> Path:
        """Have the node take a good bundle in."""
        folder = self.bundle(*what, **how)
        imported(self.node, folder)
        return folder

    def sealed(
        self, body: Mapping[str, Any], slot: Slot = Slot.DESIRED, key: SigningKey = DIRECTOR,
        *, to: Addressee | None = None, issued: datetime.datetime = NOW,
    ) -> bytes:  # fmt: skip
        """Return an envelope for the node."""
        return seal(slot, to or self.me, dict(body), key, issued=issued, lifetime=DAY)


class Stage:
    """Builds scenes once, and plays each attack as often as one likes, always from the start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plays = 0
        small_node(folder / "bare", SIGNER, ScriptedClock(utc=NOW)).close()

    @functools.cache  # noqa: B019 - lives as long as the tests
    def _scene(self, found: Attack) -> tuple[Scene, Attempt]:
        folder = self._folder / found.name
        folder.mkdir()
        scene = Scene(folder, self._node(self._folder / "bare", folder / "node", NOW))
        offered = found.prepare(scene)
        scene.node.close()
        return scene, importing(offered) if isinstance(offered, Path) else offered

    def prepare(self, found: Attack) -> None:
        """Build an attack's scene, if that was not done."""
        self._scene(found)

    def ready(self, found: Attack) -> tuple[Node, Attempt]:
        """Return a node as the attacker finds it, and what is done to it."""
        scene, attempt = self._scene(found)
        self._plays += 1
        node = self._node(scene.folder / "node", self._folder / f"play-{self._plays}", scene.at)
        keep_house(node, **scene.house)
        return node, attempt

    def play(self, found: Attack) -> Verdict:
        """Return how an attack ends."""
        node, attempt = self.ready(found)
        try:
            return verdict_of(node, attempt)
        finally:
            node.close()
            shutil.rmtree(node.state)

    def _node(self, state: Path, copy: Path, at: datetime.datetime) -> Node:
        shutil.copytree(state, copy, symlinks=True)
        return Node.open(copy, ScriptedClock(utc=at))


def verdict_of(node: Node, attempt: Attempt) -> Verdict:
    """Return how it ends when this is done to a node."""
    try:
        result = attempt(node)
    except ApplianceError as error:
        return error.exit_code
    except Exception:  # noqa: BLE001 - with a defence off, anything may happen behind it
        return FELL
    return result if isinstance(result, str) else ACCEPTED


def importing(offered: Any, harm: Callable[[Node], bool] = lambda _: False) -> Attempt:
    """Return the attempt to have a bundle imported; ``harm`` says whether it did what it was for.

    Args:
        offered: A bundle's folder, or a function that returns another medium, new each time.
        harm: Looked at when all is over, also when the bundle was refused.
    """

    def attempt(node: Node) -> object:
        medium = offered() if callable(offered) else offered
        try:
            node.importer.run(medium, "a test")
        except ApplianceError:
            if harm(node):
                return HARMED
            raise
        return HARMED if harm(node) else ACCEPTED

    return attempt


def lasting(role: str, until: datetime.datetime) -> Mapping[str, Callable[[Any], object]]:
    """Return an edit by which one role expires then, and the others as ever."""
    return {role: lambda part: setattr(part, "expires", until)}


def with_field(name: str, value: object) -> Callable[[Any], object]:
    """Return an edit that adds a field to what is signed."""
    return lambda part: part.unrecognized_fields.update({name: value})


def issued(at: datetime.datetime) -> Callable[[Any], object]:
    """Return an edit by which a role says that it was issued then."""
    return with_field("x-issued", at.isoformat().replace("+00:00", "Z"))
