"""``quarantine/``: where a blob goes that is not what its name says. Nothing is read from there.

It is kept for a while, so that somebody may look at what the disk did, and then deleted.
"""

import contextlib
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from appliance.cache import verify
from appliance.cache.store import ModelStore
from appliance.core.ids import Digest, hex_of
from appliance.core.model import Variant
from appliance.kit.files import fsync_folder, make_folder, move_durably, translated


class Quarantine:
    """The folder, and the ways into it and past it."""

    def __init__(self, folder: Path, store: ModelStore) -> None:
        self.folder = folder
        self._store = store

    def holds(self, digest: Digest) -> bool:
        """Whether what the blob has become lies here."""
        return (self.folder / hex_of(digest)).exists()

    def take(self, digest: Digest, variants: Iterable[Variant], now: datetime) -> None:
        """Move a damaged blob out of the store, and with it the links that engines open.

        After a crash in the middle the blob is either still in the store, or here.
        """
        make_folder(self.folder, mode=0o700)
        blob = self._store.blobs.path(digest)
        with contextlib.suppress(FileNotFoundError):  # somebody was quicker, or deleted it
            with translated(f"dating {blob}"):
                os.utime(blob, (now.timestamp(), now.timestamp()))
            move_durably(blob, self.folder / hex_of(digest))
        for variant in variants:
            for file, link in zip(variant.all_files, self._store.links_of(variant), strict=True):
                if file.digest == digest:
                    self._store.unlink(link)


def relink(store: ModelStore, variant: Variant) -> bool:
    """Bring back weights that vanished from the store, from the link that engines open.

    It is the same file under another name, so it costs one look at its bytes and no import.
    """
    link = store.link(variant)
    if not link.is_file():
        return False
    if verify.finish(verify.verify(link, variant.weights)).blake3 is None:
        return False
    blob = store.blobs.path(variant.weights)
    with translated(f"linking {blob}"), contextlib.suppress(FileExistsError):
        blob.hardlink_to(link)
    fsync_folder(blob.parent)
    return True
