"""Container images as OCI layouts: a few bytes each, and in the form that tools expect.

The project's own, real ones come from ``cluster_images``.
"""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from appliance.core import wire
from tests.helpers.cluster_images import appliance_image, engine_image
from tests.helpers.signing import digest_of

__all__ = ["appliance_image", "engine_image", "write_image"]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def write_image(folder: Path, reference: str | None = "it:1.0", *, index: bool = False) -> str:
    """Write an OCI layout with one image; return its manifest's digest.

    With ``index`` the image is one of two for different platforms.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifests = [_image(blobs, "amd64")]
    if index:
        manifests.append(_image(blobs, "arm64"))
        found = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        listed = [_put(blobs, wire.dumps(found), INDEX_TYPE)]
    else:
        listed = manifests
    if reference is not None:
        listed[0]["annotations"] = {"org.opencontainers.image.ref.name": reference}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_bytes(
        wire.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed})
    )
    digest: str = manifests[0]["digest"]
    return digest


def _image(blobs: Path, architecture: str) -> dict[str, Any]:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("hello")
        entry.size = len(architecture)
        archive.addfile(entry, io.BytesIO(architecture.encode()))
    layer = gzip.compress(tar.getvalue(), mtime=0)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(tar.getvalue()).hexdigest()],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _put(blobs, wire.dumps(config), "application/vnd.oci.image.config.v1+json"),
        "layers": [_put(blobs, layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    platform = {"os": "linux", "architecture": architecture}
    return {**_put(blobs, wire.dumps(manifest), MANIFEST_TYPE), "platform": platform}


def _put(blobs: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = digest_of(data)
    (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}
