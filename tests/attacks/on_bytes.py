"""Attacks with bytes, recipes and files, and at the start of what was imported: from step 11."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.format import delta, modelpack, rebuild
from appliance.bundle.format.delta import Recipe, Sized, Step
from appliance.cache import catalog
from appliance.core import wire
from appliance.core.ids import LOCAL, Digest
from appliance.core.model import FileKind
from appliance.errors import DowngradeError, RevokedError
from appliance.trust import local
from appliance.trust.metadata import SignedTarget
from tests.attacks import defences as d
from tests.attacks.attack import FELL, HARMED, NOW, Attempt, Scene, attack, good, importing
from tests.attacks.on_contents import MANIFEST_TYPE, manifest_with
from tests.attacks.on_keys import other
from tests.helpers.gguf import small_llama
from tests.helpers.models import digest_of as digest_for
from tests.helpers.models import variant
from tests.helpers.organisation import Node
from tests.helpers.signing import blob_path, digest_of, revoked

# --- step 11: bytes -------------------------------------------------------------------------------


@attack("import 11", d.NO_LINKS, 26, keeps=True)
def weights_behind_a_link(s: Scene) -> Path:
    """A link on the stick leads to a file of the node."""
    draft = good()
    folder = s.bundle(draft)
    path = draft.file(folder, "weights")
    path.symlink_to(path.rename(folder / "elsewhere"))
    return folder


@attack("import 11", d.REGULAR, 26, without=FELL)
def pipe_that_is_waited_for(s: Scene) -> Path:
    """A pipe lies where a file should, to keep the import waiting for ever."""
    draft = good()
    folder = s.bundle(draft)
    path = draft.file(folder, "release")
    path.unlink()
    os.mkfifo(path)
    return folder


@attack("import 11", d.OTHER_BYTES, 26, kind="other bytes", keeps=True)
def weights_with_other_bytes(s: Scene) -> Path:
    """One bit of the weights is another."""
    draft = good()
    folder = s.bundle(draft)
    path = draft.file(folder, "weights")
    data = bytearray(draft.weights)
    data[-1] ^= 1
    path.write_bytes(data)
    return folder


def in_parts(s: Scene, change: Callable[[bytes], bytes]) -> Path:
    """Return a bundle whose weights lie in parts, so that nobody knows their length before."""
    draft = good()
    draft.hint = {"name": "small", "version": "1.0.0", "volumes": _VOLUMES}
    folder = s.bundle(draft)
    path = draft.file(folder, "weights")
    path.rename(path.with_name(f"{path.name}.000")).write_bytes(change(draft.weights))
    return folder


_VOLUMES = {"this": 1, "of": 1, "partBytes": 1 << 20}


@attack("import 11", d.TOO_LONG, 26, kind="endless data", keeps=True)
def weights_that_never_end(s: Scene) -> Path:
    """Weights go on beyond their signed length."""
    return in_parts(s, lambda data: data + b"more")


@attack("import 11", d.TOO_SHORT, 26, keeps=True, twin=d.OTHER_BYTES, without=27)
def weights_that_end_early(s: Scene) -> Path:
    """Weights end before their signed length."""
    return in_parts(s, lambda data: data[:-1])


# --- step 12: deltas ------------------------------------------------------------------------------

OLD_WEIGHTS = small_llama(b"\1" * 40_000)
NEW_WEIGHTS = small_llama(b"\1" * 40_000 + b"news")


def as_delta(
    s: Scene,
    steps: Callable[[int], Sequence[Step]],
    fresh: bytes = b"",
    change: Callable[[dict[str, Any]], object] = lambda _: None,
    base: bytes = OLD_WEIGHTS,
) -> Path:
    """Return a bundle of new weights as a recipe; ``steps`` are given the length to make."""
    old, new = good(OLD_WEIGHTS), good(NEW_WEIGHTS, version="2.0.0")
    s.took(old)
    folder = s.bundle(new, (2, 2, 2), also=old.listed())
    new.file(folder, "weights").unlink()
    output = Sized(Digest(digest_of(new.weights)), len(new.weights))
    bases = (Sized(Digest(digest_of(base)), len(base)),)
    found = json.loads(Recipe(output, bases, tuple(steps(len(new.weights)))).to_bytes())
    change(found)
    (folder / "deltas").mkdir()
    (folder / rebuild.recipe_path(output.digest)).write_bytes(wire.dumps(found))
    (folder / rebuild.literal_path(output.digest)).write_bytes(fresh)
    return folder


def all_new(length: int) -> list[Step]:
    return [Step(None, 0, length)]


@attack("import 12", d.RECIPE_OUTPUT, 27, kind="hostile recipe", keeps=True)
def recipe_for_another_blob(s: Scene) -> Path:
    """A recipe says that it makes another blob."""
    another = {"digest": digest_of(b"another"), "size": len(NEW_WEIGHTS)}
    return as_delta(s, all_new, NEW_WEIGHTS, lambda found: found.update(output=another))


@attack("import 12", d.RECIPE_STEPS, 27, kind="hostile recipe", without=26, keeps=True)
def recipe_beyond_the_end_of_a_base(s: Scene) -> Path:
    """A recipe takes from beyond the end of a base."""
    return as_delta(s, lambda length: [Step(0, len(OLD_WEIGHTS), length)])


@attack(
    "import 12", d.RECIPE_STEPS, 27, kind="hostile recipe", keeps=True,
    without=FELL,
)  # fmt: skip
def recipe_of_a_base_that_it_does_not_name(s: Scene) -> Path:
    """A recipe takes from the eighth of one base."""
    return as_delta(s, lambda length: [Step(7, 0, length)])


@attack("import 12", d.RECIPE_STEPS, 27, kind="endless data", without=26, keeps=True)
def recipe_that_makes_too_much(s: Scene) -> Path:
    """A recipe makes more than is signed."""
    return as_delta(s, lambda length: [*all_new(length), Step(0, 0, 1000)], NEW_WEIGHTS)


@attack("import 12", d.MOST_STEPS, 27, kind="endless data", keeps=True)
def recipe_of_too_many_steps(s: Scene) -> Path:
    """A recipe takes one byte at a time, to cost time without end."""
    return as_delta(s, lambda length: [Step(None, at, 1) for at in range(length)], NEW_WEIGHTS)


@attack("import 12", d.RECIPE_CAP, 27, kind="endless data", keeps=True)
def endless_recipe(s: Scene) -> Path:
    """A recipe never ends."""
    pad = "x" * delta.MAX_RECIPE_BYTES
    return as_delta(s, all_new, NEW_WEIGHTS, lambda found: found.update(padding=pad))


@attack("import 12", d.BASES, 23, kind="hostile recipe", without=26, keeps=True)
def recipe_of_a_base_that_is_not_here(s: Scene) -> Path:
    """A recipe takes from a file that the store does not hold."""
    return as_delta(s, lambda length: [Step(0, 0, length)], base=NEW_WEIGHTS + b"\0")


@attack("import 12", d.OTHER_BYTES, 26, kind="hostile recipe", keeps=True)
def recipe_that_makes_other_bytes(s: Scene) -> Path:
    """A recipe makes other weights than are signed."""
    mine = NEW_WEIGHTS[:-1] + b"!"
    return as_delta(s, all_new, mine)


@attack(
    "import 12", d.ACCUSATION, 26, kind="hostile recipe", without=HARMED, keeps=True,
    rests_on=(d.OTHER_BYTES,),
)  # fmt: skip
def recipe_that_accuses_a_base(s: Scene) -> Attempt:
    """A recipe makes nonsense of a good base, so that the node puts it away as damaged."""
    away = list[Digest]()
    s.house["quarantine"] = away.append
    size = len(OLD_WEIGHTS)
    folder = as_delta(
        s, lambda length: [Step(0, 0, size), Step(None, 0, length - size)],
        bytes(len(NEW_WEIGHTS) - size),
    )  # fmt: skip

    def harm(_: Node) -> bool:
        accused = bool(away)
        away.clear()
        return accused

    return importing(folder, harm)


# --- steps 13 to 15 -------------------------------------------------------------------------------


@attack("import 13", d.HEADER, 27, keeps=True)
def weights_with_a_hostile_header(s: Scene) -> Path:
    """A weight file's header counts more entries than there are atoms."""
    return s.bundle(good(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16))


@attack("import 13", d.HEADER, 27, keeps=True)
def weights_that_are_a_pickle(s: Scene) -> Path:
    """A weight file is a pickle, which would be executed when it is loaded."""
    return s.bundle(good(b"\x80\x04\x95cos\nsystem\n"))


@attack("import 13", d.PICKLE, 27, keeps=True, rests_on=(d.HEADER,))
def tokenizer_that_is_a_pickle(s: Scene) -> Path:
    """A file beside the weights is a pickle under another name."""
    draft, pickle = good(), b"\x80\x04\x95cos\nsystem\n"
    layer = {
        "mediaType": modelpack.LAYER_TYPES[FileKind.CONFIG],
        "digest": digest_of(pickle),
        "size": len(pickle),
        "annotations": {modelpack.FILEPATH: "tokenizer.model"},
    }
    draft.manifest["layers"].append(layer)
    folder = s.bundle(draft)
    blob_path(folder, pickle).write_bytes(pickle)
    return folder


@attack("import 13", d.HEADER, 27, keeps=True)
def manifest_that_lies_about_memory(s: Scene) -> Path:
    """A manifest says that a model needs less memory than it does, so that others starve."""
    name = f"{modelpack.OURS}.kv-bytes-per-token"
    return manifest_with(s, lambda draft: draft.manifest["annotations"].update({name: "1"}))


@attack("import 14", d.DISCARDED, 27, without=HARMED, keeps=True, rests_on=(d.HEADER,))
def bundle_of_a_good_and_a_bad_model(s: Scene) -> Attempt:
    """A bundle leaves its good half behind when its bad half is refused."""
    draft, bad = good(), good(b"no model", name="bad")
    draft.release["targets"] = [draft.path, bad.path]
    folder = s.bundle(draft, also={bad.path: bad.listed()[bad.path]})
    for data in bad.blobs.values():
        blob_path(folder, data).write_bytes(data)

    def harm(node: Node) -> bool:
        left = [p.name for p in (node.state / "incoming").iterdir() if p.name != ".lock"]
        return bool(left or node.store.blobs.all() or node.ledger.read(catalog.variants))

    return importing(folder, harm)


def starting(node: Node) -> object:
    """Start what is in the catalogue, as the controller does: what is denied does not start."""
    denied = node.trust.listed().denied(node.ledger.read(catalog.variants))
    for found in denied.values():
        raise {"NotListed": DowngradeError, "Revoked": RevokedError}[found.reason](found.message)
    return None


@attack("import 15", d.LISTED, 22, row="director", kind="rollback")
def start_of_what_is_not_listed_any_more(s: Scene) -> Attempt:
    """A model that was taken off the list is started again."""
    s.took()
    s.took(other(), versions=(2, 2, 2))
    return starting


@attack("import 15", d.REVOCATION, 29, row="director", kind="revocation")
def start_of_what_is_revoked(s: Scene) -> Attempt:
    """A model that was revoked is started again."""
    draft, then = good(), other()
    s.took(draft)
    then.revoked = revoked(digest_of(draft.blobs["manifest"]))
    s.took(then, versions=(2, 2, 2), also=draft.listed())
    return starting


# --- what a site signs for itself -----------------------------------------------------------------


def own(path: str) -> SignedTarget:
    return SignedTarget(path, MANIFEST, 500, MANIFEST_TYPE, LOCAL)


MANIFEST = digest_for("a model of the site's own")


def starting_own(node: Node) -> object:
    """Start what the site brought, as the controller does."""
    found = node.trust.listed()
    mine = local.listed(node.state, local.organisation_models(found.targets))
    brought = variant("small", publisher=LOCAL, manifest=MANIFEST)
    found.with_local(mine).check_variant(brought)
    return None


@attack("import 15", d.SITE_SHADOW, 22, row="site", kind="wrong role", rests_on=(d.LISTED,))
def site_model_that_takes_an_organisations_name(s: Scene) -> Attempt:
    """The site's own model takes the name of one that the organisation approved."""
    s.took()
    local.approve(s.node.state, own("local/small/1.0.0/Q4_0"), NOW)
    return starting_own


@attack("import 15", d.SITE_SIGNED, 20, row="site", kind="wrong key")
def site_list_by_another_key(s: Scene) -> Attempt:
    """Another machine's list of its own models is put here."""
    for state in (s.node.state, s.folder / "elsewhere"):
        (state / "identity").mkdir(parents=True, exist_ok=True)
        local.approve(state, own("local/small/1.0.0/Q4_0"), NOW)
    there = (s.folder / "elsewhere" / local.LIST).read_bytes()
    (s.node.state / local.LIST).write_bytes(there)
    return starting_own


@attack("import 15", d.SITE_SCOPE, 28, row="site", kind="wrong role")
def site_list_beyond_its_path(s: Scene) -> Attempt:
    """The site's key approves a model as a publisher's."""
    with pytest.MonkeyPatch.context() as patch:
        d.SITE_SCOPE.switch_off(patch)
        local.approve(s.node.state, own("models/rival/large/1.0.0/Q4_0"), NOW)
        local.approve(s.node.state, own("local/small/1.0.0/Q4_0"), NOW)
    return starting_own
