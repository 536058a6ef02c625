"""What may run: the signed list in force, less what is revoked. Pure; step 15 of TRUST asks it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from appliance.core.ids import LOCAL, Digest
from appliance.core.model import NOT_LISTED, REVOKED, Denial, Variant
from appliance.errors import DowngradeError, RevokedError
from appliance.trust.documents import Revoked
from appliance.trust.metadata import SignedTarget


@dataclass(frozen=True, slots=True)
class Listed:
    """Signed paths and revocations of the set in force."""

    targets: Mapping[str, SignedTarget] = field(default_factory=dict)
    revoked: Revoked = field(default_factory=Revoked)

    def with_local(self, targets: Mapping[str, SignedTarget]) -> "Listed":
        """Return the list together with what the site signed for itself, below ``local/`` alone."""
        own = {path: t for path, t in targets.items() if path.startswith(f"{LOCAL}/")}
        return replace(self, targets={**self.targets, **own})

    def check(self, path: str, manifest: Digest, *blobs: Digest) -> None:
        """Check that something may start.

        Args:
            path: The path it was approved under.
            manifest: Its manifest, which that path must still name.
            blobs: What the manifest covers.

        Raises:
            RevokedError: the manifest or a blob of it is denied by name.
            DowngradeError: the newest signed list does not name it any more.
        """
        for digest in (manifest, *blobs):
            self.revoked.check(digest, path)
        target = self.targets.get(path)
        if target is None or target.digest != manifest:
            raise DowngradeError(
                f"{path} as {manifest} is not in the newest signed list that this node trusts",
                hint="import a bundle that brings a listed version; what runs goes on",
            )

    def check_variant(self, variant: Variant) -> None:
        """Check that a variant of the catalogue may start; see ``check``."""
        files = (file.digest for file in variant.all_files)
        self.check(variant.path, variant.manifest, *files)

    def denied(self, variants: Iterable[Variant]) -> dict[Digest, Denial]:
        """Return why variants may not start, by manifest; what may start is not in it."""
        found = {}
        for variant in variants:
            try:
                self.check_variant(variant)
            except RevokedError as error:
                files = (file.digest for file in variant.all_files)
                named = (variant.manifest, *files)
                entries = (self.revoked.digests.get(digest) for digest in named)
                stop = any(entry is not None and entry.stop for entry in entries)
                found[variant.manifest] = Denial(REVOKED, error.what, stop=stop)
            except DowngradeError as error:
                found[variant.manifest] = Denial(NOT_LISTED, error.what)
        return found
