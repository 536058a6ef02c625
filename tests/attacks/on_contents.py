"""Attacks with what is listed, and with manifests: steps 7 to 10 of an import."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuf.api.metadata import Delegations

from appliance.bundle.format import artifact, modelpack, oci
from appliance.bundle.format.oci import Descriptor
from appliance.bundle.media.medium import FolderMedium
from appliance.core import wire
from appliance.core.documents import Disk
from appliance.trust.documents import DIRECTOR_PATH
from tests.attacks import defences as d
from tests.attacks.attack import Attempt, Scene, attack, good, importing
from tests.attacks.on_keys import from_vendor, other
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
