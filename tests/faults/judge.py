"""What must hold of a node's state after any end of an import."""

import hashlib
from pathlib import Path

from appliance.cache import catalog
from appliance.ledger import streams
from appliance.ledger.streams import Stream
from appliance.trust.remembered import rederive
from tests.helpers.clock import ScriptedClock
from tests.helpers.importing import audit
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED

BEFORE, AFTER = ["small:1.0.0-Q4_0"], ["small:1.0.0-Q4_0", "small:2.0.0-Q4_0"]


def check(state: Path, bundle: Path, *, acknowledged: bool) -> None:
    """Open a node as after a restart, judge it, import again, and judge it once more.

    Raises:
        AssertionError: something that was promised does not hold.
    """
    node = Node.open(state, ScriptedClock(utc=ISSUED))
    try:
        rederive(node.trust, node.ledger)
        names = _valid(node)
        assert names in (BEFORE, AFTER)
        if acknowledged:
            assert names == AFTER, "an import that was acknowledged is gone"
        done = node.importer.run(bundle, "a test")
        assert done.models == (AFTER[1],)
        assert _valid(node) == AFTER
        assert [p.name for p in (state / "incoming").iterdir()] == [".lock"]
        kinds = [record["kind"] for record in audit(node)]
        assert kinds.count("import") >= 2
        assert node.ledger.read(lambda db: streams.position(db, Stream.AUDIT)).written == len(kinds)
    finally:
        node.close()


def _valid(node: Node) -> list[str]:
    for digest in node.store.blobs.all():
        data = node.store.blobs.path(digest).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest, "a blob lies about itself"
    rows = node.ledger.read(catalog.variants)
    for row in rows:
        assert node.store.blobs.has(row.manifest), "a row without its manifest"
        assert node.store.blobs.has(row.weights), "a row without its weights"
    return [row.reference for row in rows]
