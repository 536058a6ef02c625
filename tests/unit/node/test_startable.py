"""An engine opens its weights only while somebody vouches for them."""

from pathlib import Path

import pytest

from appliance.cache import catalog
from appliance.cache.store import ModelStore
from appliance.errors import DowngradeError, RevokedError
from appliance.node.startable import Startable
from appliance.planner.decide import decide
from appliance.trust.documents import REVOKED_PATH
from tests.helpers.clock import ScriptedClock
from tests.helpers.importing import imported, small_node
from tests.helpers.models import deployment, place
from tests.helpers.signing import ISSUED, Draft, InForce, Signer, revoked


def test_every_launch_asks_again(tmp_path: Path) -> None:
    signer = Signer.new()
    node = small_node(tmp_path / "box", signer, ScriptedClock(utc=ISSUED))
    imported(node, Draft().write(tmp_path / "bundle", signer))
    (found,) = node.ledger.read(catalog.variants)
    node.close()
    (replica,) = decide([deployment()], [place([found])], slots=1)["notes"].replicas
    in_force = InForce(tmp_path / "tuf")
    startable = Startable(in_force.trust.listed, ModelStore(tmp_path / "box"))
    with pytest.raises(DowngradeError):
        startable.weights(replica)
    in_force.list(found)
    assert startable.weights(replica).is_file()
    in_force.documents[REVOKED_PATH] = revoked(found.weights)
    in_force.put()
    with pytest.raises(RevokedError):
        startable.weights(replica)
