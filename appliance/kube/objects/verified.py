"""What may run in the engines' namespace: the list that the admission policies read. Pure.

``manifests/base/policies/verified.yaml`` lets a pod in only when its images and the folders of its
models are in ConfigMap ``edge-verified``. Each node's controller applies its own entries with a
field manager of its own, so that the list is what all of them verified: an entry goes when the last
one gave it up.

Values are compared whole, so that no name can be made to fit: an image by the end of its reference,
a model by the folder that was made for its manifest.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from appliance.core.ids import Digest, digest, hex_of
from appliance.core.model import Variant
from appliance.kube.marks import MANAGED_BY, MANAGER

NAME = "edge-verified"
_IMAGE, _MODEL = "image", "model"
_MANAGED = {MANAGED_BY: MANAGER}


def body(
    images: Iterable[Digest], held: Iterable[Variant], *, models: Path, namespace: str
) -> dict[str, Any]:
    """Return the ConfigMap that one node applies, with nothing but its own entries.

    Args:
        images: Manifests of the engine images that this node may run.
        held: The variants that it holds, verified.
        models: The folder of the models, on the machine.
        namespace: Where the policies look for it.
    """
    entries = {_key(_IMAGE, image): f"@{image}" for image in images}
    for variant in held:
        folder = models / variant.model / variant.version / variant.name
        entries[_key(_MODEL, variant.manifest)] = str(folder)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace, "labels": dict(_MANAGED)},
        "data": dict(sorted(entries.items())),
    }


def digest_of(image: str) -> Digest | None:
    """Return the manifest that an image's reference pins; None when it names only a tag."""
    _, at, found = image.rpartition("@")
    try:
        return digest(found) if at else None
    except ValueError:
        return None


def _key(kind: str, manifest: Digest) -> str:
    return f"{kind}.{hex_of(manifest)}"
