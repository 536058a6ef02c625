"""Nothing serves from a variant that lost a blob; what stands in for it does, until it heals."""

import asyncio
from functools import partial
from pathlib import Path

from appliance.cache import index
from appliance.cache.index import BlobState
from appliance.core.model import Variant
from appliance.core.state import Phase
from tests.helpers.models import variant
from tests.helpers.nodes import ControlledNode


def test_a_variant_that_lost_a_blob_gives_way_until_it_is_healed(tmp_path: Path) -> None:
    node = ControlledNode(tmp_path)
    large, small = variant(name="Q8_0", weights_bytes=200), variant(name="Q4_0", weights_bytes=100)
    for found in (large, small):
        node.bring(found)
        needs = {found.manifest: {found.manifest: 1, found.weights: 9}}
        node.ledger.record(partial(index.learn, found=needs, gone=(), at="now")).result()
    node.apply(quantization="auto")
    assert serving(node) == large
    lost = partial(index.lost, digest=large.weights, size=9, state=BlobState.DAMAGED)
    node.ledger.record(lost).result()
    assert serving(node) == small
    lost = partial(index.lost, digest=small.manifest, size=1, state=BlobState.MISSING)
    node.ledger.record(lost).result()
    assert serving(node) is None
    node.ledger.record(partial(index.admitted, blobs={large.weights: 9})).result()
    assert serving(node) == large
    node.ledger.close()


def serving(node: ControlledNode) -> Variant | None:
    """Reconcile until nothing changes; return what the engine runs from."""
    for _ in range(3):
        asyncio.run(node.controller.reconcile())
        for replica_id, seen in dict(node.driver.observe()).items():
            if seen.phase is Phase.STOPPING:
                node.driver.end(replica_id)
            else:
                node.driver.become_ready(replica_id)
    running = list(node.driver.world.values())
    return running[0].variant if running else None
