"""Which engine is asked: one that answered lately, the least busy, and rather a near one."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from appliance.core.routes import Endpoint

_SHUN_S = 3.0
"""How long an engine that failed is asked only if there is no other.

Without it a machine that vanished would look like the least busy one until the routes say so, and
each request would first wait for it in vain.
"""


class Balancer:
    """Counts what this gateway has under way; what other gateways ask is not known here."""

    def __init__(self, node: str = "", monotonic: Callable[[], float] = time.monotonic) -> None:
        """``node`` is where this gateway runs; empty: no engine is nearer than another."""
        self._node = node
        self._monotonic = monotonic
        self._running: Counter[str] = Counter()
        self._failed: dict[str, float] = {}

    def choose(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Return the engine to ask, of at least one."""
        now = self._monotonic()
        self._failed = {a: at for a, at in self._failed.items() if now - at < _SHUN_S}
        return min(endpoints, key=self._reluctance)

    def _reluctance(self, endpoint: Endpoint) -> tuple[bool, int, bool]:
        far = bool(self._node) and endpoint.node not in ("", self._node)
        return endpoint.address in self._failed, self._running[endpoint.address], far

    @contextmanager
    def asking(self, endpoint: Endpoint) -> Iterator[None]:
        """Count a request for as long as the block runs."""
        self._running[endpoint.address] += 1
        try:
            yield
        finally:
            self._running[endpoint.address] -= 1
            if not self._running[endpoint.address]:
                del self._running[endpoint.address]  # pods come and go with ever new addresses

    def failed(self, endpoint: Endpoint) -> None:
        """Note that an engine did not answer, or broke off."""
        self._failed[endpoint.address] = self._monotonic()
