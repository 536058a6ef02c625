"""What an engine may open: asked again at every launch, also of one that crashed.

Step 15 of `TRUST.md`, "Importing a bundle". The planner asks at every pass, but a driver starts a
crashed engine again by itself, long after that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.cache.store import ModelStore
from appliance.core.model import Replica
from appliance.trust.listed import Listed


@dataclass(frozen=True, slots=True)
class Startable:
    """Weights of models that are listed and not revoked at this moment."""

    listed: Callable[[], Listed]
    store: ModelStore

    def weights(self, replica: Replica) -> Path:
        """Return the file that a replica's engine opens.

        Raises:
            RevokedError, DowngradeError: it may not start any more.
            NotFoundError, StateUnusableError: the file is not there or cannot be made.
        """
        self.listed().check_variant(replica.variant)
        return self.store.weights(replica.variant)
