"""Attacks that steps 7 to 15 of an import stop: what is wanted, its manifests, its bytes."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Delegations

from appliance.bundle.format import artifact, delta, modelpack, oci, rebuild
from appliance.bundle.format.delta import Recipe, Sized, Step
from appliance.bundle.format.oci import Descriptor
from appliance.bundle.media.medium import FolderMedium
from appliance.cache import catalog
from appliance.core import wire
from appliance.core.documents import Disk
from appliance.core.ids import LOCAL, Digest
from appliance.core.model import FileKind
from appliance.errors import DowngradeError, RevokedError
from appliance.trust import local
from appliance.trust.documents import DIRECTOR_PATH
from appliance.trust.metadata import SignedTarget
from tests.attacks import defences as d
from tests.attacks.attack import FELL, HARMED, NOW, Attempt, Scene, attack, good, importing
from tests.attacks.on_metadata import from_vendor, other
from tests.helpers.gguf import small_llama
from tests.helpers.models import digest_of as digest_for
from tests.helpers.models import variant
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Publisher, blob_path, digest_of, revoked, target

MANIFEST_TYPE = modelpack.MANIFEST_TYPE
MIB = 1 << 20

# --- step 7: scope, media type, revoked -----------------------------------------------------------


def vendor_listing(path: str, media_type: str = MANIFEST_TYPE) -> Draft:
    """Return a bundle in which a vendor lists its model, and one thing more."""
    return from_vendor(listed={path: target(b"{}", media_type)})


@attack("import 7", d.SCOPE, 28, row="publisher", kind="wrong role")
def publisher_beyond_its_path(s: Scene) -> Path:
    """A publisher lists a model as another's."""
    return s.bundle(vendor_listing("models/rival/small/1.0.0/Q4_0"))


@attack("import 7", d.SCOPE, 28, row="publisher", kind="wrong role")
def publisher_of_an_image(s: Scene) -> Path:
    """A publisher lists a container image, which would be executed."""
    return s.bundle(vendor_listing("images/vllm/1.0.0"))


@attack("import 7", d.SCOPE, 28, row="publisher", kind="wrong role")
def publisher_of_an_engine_profile(s: Scene) -> Path:
    """A publisher lists an engine profile, which says what is executed."""
    return s.bundle(vendor_listing("files/profile/vllm/1.0.0"))


@attack("import 7", d.SCOPE, 28, row="publisher", kind="wrong role")
def publisher_of_a_director(s: Scene) -> Path:
    """A publisher names the director."""
    draft = vendor_listing(DIRECTOR_PATH, "application/json")
    draft.director = None
    return s.bundle(draft)


@attack("import 7", d.SCOPE, 28, row="publisher", kind="wrong role")
def publisher_of_revocations(s: Scene) -> Path:
    """A publisher denies what others approved."""
    return s.bundle(vendor_listing("trust/revoked.json", "application/json"))


@attack("import 7", d.SCOPE, 28, row="publisher", kind="wrong role", rests_on=(d.MEDIA_TYPE,))
def publisher_of_something_else_as_a_model(s: Scene) -> Path:
    """A publisher lists a script below its own path, as what it is."""
    return s.bundle(vendor_listing("models/vendor/tool/1.0.0/all", "text/x-python"))


@attack("import 7", d.DELEGATION, 28, row="publisher", kind="wrong role")
def delegation_of_all_models(s: Scene) -> Path:
    """Targets let a publisher sign everybody's models."""

    def widen(role: Any) -> None:
        role.paths = ["models/*/*/*/*"]

    return s.bundle(from_vendor(edit_role=widen))


@attack("import 7", d.DELEGATION, 28, row="publisher", kind="wrong role")
def delegation_that_is_not_the_last_word(s: Scene) -> Path:
    """Targets delegate so that others may be asked after the publisher."""
    return s.bundle(from_vendor(edit_role=lambda role: setattr(role, "terminating", False)))


@attack("import 7", d.DELEGATION, 28, row="site", kind="wrong role")
def delegation_of_a_sites_name(s: Scene) -> Path:
    """An organisation's publisher takes the name that is kept for a site's own models."""
    return s.bundle(publishers=[Publisher.new("local")])


@attack("import 7", d.NESTED, 28, row="publisher", kind="wrong role")
def publisher_that_delegates(s: Scene) -> Path:
    """A publisher hands on what it was given."""
    below = Publisher.new("friend")

    def hand_on(targets: Any) -> None:
        targets.delegations = Delegations({}, {})
        below.delegate(targets.delegations)

    return s.bundle(from_vendor(edit=hand_on))


@attack("import 7", d.FAMILY, 28, row="targets", kind="wrong role", without=27)
def release_of_a_playbook(s: Scene) -> Path:
    """A release wants what this node does not import."""
    draft = good()
    draft.release["targets"] = [draft.path, "playbooks/site/1.0.0"]
    folder = s.bundle(draft, also={"playbooks/site/1.0.0": target(b"{}", MANIFEST_TYPE)})
    blob_path(folder, b"{}").write_bytes(b"{}")
    return folder


@attack("import 7", d.FAMILY, 28, row="targets", without=27)
def release_of_a_path_that_leads_elsewhere(s: Scene) -> Path:
    """A model's path leads out of the folder of models."""
    draft = good()
    draft.path = "models/acme/../../Q4_0"
    draft.release["targets"] = [draft.path]
    return s.bundle(draft)


@attack("import 7", d.MEDIA_TYPE, 28, row="targets")
def release_of_another_media_type(s: Scene) -> Path:
    """A model is signed as what is no manifest."""
    draft = good()
    draft.media_type = "application/octet-stream"
    return s.bundle(draft)


@attack("import 7", d.REVOCATION, 29, row="targets", kind="revocation")
def release_of_a_revoked_model(s: Scene) -> Path:
    """A model that was revoked is brought again."""
    draft = good()
    draft.revoked = revoked(digest_of(draft.blobs["manifest"]))
    return s.bundle(draft)


@attack("import 7", d.DOCUMENT_BYTES, 26, kind="mix-and-match")
def release_with_other_bytes(s: Scene) -> Path:
    """The stick says that an older model belongs to the release."""
    draft, old = good(), other("0.9.0")
    folder = s.bundle(draft, also=old.listed())
    for data in old.blobs.values():
        blob_path(folder, data).write_bytes(data)
    mine = {**draft.release, "targets": [old.path]}
    draft.file(folder, "release").write_bytes(wire.dumps(mine))
    return folder


@attack("import 7", d.HINT_NAME, 27)
def hint_that_writes_on_the_screen(s: Scene) -> Path:
    """The unsigned hint carries a terminal's commands."""
    draft = good(name="\x1b[2J")
    draft.path = "models/acme/small/1.0.0/Q4_0"
    draft.release["targets"] = [draft.path]
    return s.bundle(draft)


# --- step 9 ---------------------------------------------------------------------------------------


@attack("import 9", d.SPACE, 24, keeps=True)
def bundle_that_fills_the_disk(s: Scene) -> Path:
    """A bundle takes more than the site grants to models."""
    s.house["disk"] = lambda: Disk.model_validate({"store": "1Ki"})
    return s.bundle()


# --- step 10: manifests ---------------------------------------------------------------------------


def manifest_with(s: Scene, change: Callable[[Draft], object]) -> Path:
    draft = good()
    change(draft)
    return s.bundle(draft)


@attack("import 10", d.DOCUMENT_BYTES, 26, kind="other bytes", keeps=True)
def manifest_that_changes_when_it_is_read_again(s: Scene) -> Attempt:
    """A stick shows another manifest first, and the signed one when it is copied."""
    draft = good()
    folder, mine = s.bundle(draft), json.loads(wire.dumps(draft.manifest))
    mine["annotations"]["org.opencontainers.image.licenses"] = "all rights are mine"
    path = draft.file(folder, "manifest")

    class Turning(FolderMedium):
        """Gives other bytes at the first reading of one file."""

        def __init__(self) -> None:
            super().__init__(folder)
            self._asked = 0

        def open(self, name: str, offset: int = 0) -> Any:
            if name.endswith(path.name):
                self._asked += 1
                if self._asked == 1:
                    name = "blobs/sha256/mine"
            return super().open(name, offset)

    (path.parent / "mine").write_bytes(wire.dumps(mine))
    return importing(Turning)


@attack("import 10", d.MANIFEST_CAP, 27, kind="endless data", keeps=True)
def endless_manifest(s: Scene) -> Path:
    """A manifest never ends."""
    return manifest_with(s, lambda draft: draft.manifest.update(padding="x" * (4 << 20)))


@attack("import 10", d.MANIFEST_TYPE, 27, keeps=True)
def manifest_of_another_type(s: Scene) -> Path:
    """A manifest is of another type than is signed of it."""
    index = "application/vnd.oci.image.index.v1+json"
    return manifest_with(s, lambda draft: draft.manifest.update(mediaType=index))


@attack("import 10", d.ARTIFACT_TYPE, 27, keeps=True)
def manifest_of_another_artifact(s: Scene) -> Path:
    """A container image is listed as a model."""
    image = "application/vnd.oci.image.config.v1+json"
    return manifest_with(s, lambda draft: draft.manifest.update(artifactType=image))


@attack("import 10", d.NOT_BOTH, 27, keeps=True)
def manifest_that_is_an_index_too(s: Scene) -> Path:
    """A manifest that one reader takes for a model, and another for an index."""
    return manifest_with(s, lambda draft: draft.manifest.update(manifests=[]))


@attack("import 10", d.NO_URLS, 27, keeps=True)
def layer_at_an_address(s: Scene) -> Path:
    """Weights are to be fetched from an address."""
    there = ["https://example.com/weights"]
    return manifest_with(s, lambda draft: draft.layer.update(urls=there))


@attack("import 10", d.NO_DATA, 27, keeps=True)
def layer_inline(s: Scene) -> Path:
    """Weights lie in the manifest, where nobody hashes them."""
    return manifest_with(s, lambda draft: draft.layer.update(data="R0dVRg=="))


@attack("import 10", d.LAYER_TYPE, 27, keeps=True)
def layer_that_is_an_archive(s: Scene) -> Path:
    """Weights come in an archive, which would have to be unpacked."""
    tar = "application/vnd.cncf.model.weight.v1.tar"
    return manifest_with(s, lambda draft: draft.layer.update(mediaType=tar))


def named(s: Scene, name: str) -> Path:
    notes = {modelpack.FILEPATH: name}
    return manifest_with(s, lambda draft: draft.layer.update(annotations=notes))


@attack("import 10", d.FILE_NAME, 27, keeps=True)
def file_that_leads_elsewhere(s: Scene) -> Path:
    """A file's name leads out of its folder."""
    return named(s, "../../../../identity/model.gguf")


@attack("import 10", d.FILE_NAME, 27, keeps=True)
def file_that_is_hidden(s: Scene) -> Path:
    """A file's name begins with a dot."""
    return named(s, ".model.gguf")


@attack("import 10", d.FILE_NAME, 27, row="targets", keeps=True)
def package_that_leads_elsewhere(s: Scene) -> Path:
    """A package's name leads out of its folder."""
    draft, data = good(), b"a package"
    layer = Descriptor.of(data, artifact.FILE_TYPE).to_wire(
        annotations={oci.TITLE: "../../../etc/cron.d/job"}
    )
    empty = Descriptor.of(oci.EMPTY, oci.EMPTY_TYPE)
    manifest = oci.manifest(artifact.artifact_type("deb"), empty, [layer], {})
    path = "files/deb/job/1"
    draft.release["targets"] = [draft.path, path]
    folder = s.bundle(draft, also={path: target(manifest, MANIFEST_TYPE)})
    for blob in (manifest, data, oci.EMPTY):
        blob_path(folder, blob).write_bytes(blob)
    return folder


@attack("import 10", d.REVOCATION, 29, row="targets", kind="revocation", keeps=True)
def weights_that_are_revoked(s: Scene) -> Path:
    """Weights that were revoked come back under another manifest."""
    draft = good()
    draft.revoked = revoked(digest_of(draft.weights))
    return s.bundle(draft)


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
