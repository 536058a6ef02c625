"""Whatever people and machines do, in whatever order: a key that was revoked stays revoked."""

import datetime
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.ids import NodeId
from appliance.errors import ApplianceError
from appliance.hub import roster
from appliance.hub.enrolment import Asked
from appliance.trust.certificates import CertificateRequest, Chain, FileTlsKey
from appliance.trust.keys import SigningKey
from tests.helpers.enrolling import Office
from tests.helpers.signing import new_key

pytestmark = pytest.mark.slow


NAMES = ["box-1", "box-2"]
KEYS = [new_key() for _ in range(3)]
DO = st.one_of(
    st.tuples(st.just("revoke"), st.sampled_from(NAMES), st.sampled_from(KEYS)),
    st.tuples(st.just("replace"), st.sampled_from(NAMES), st.sampled_from(KEYS)),
    st.tuples(st.just("admit"), st.sampled_from(NAMES), st.sampled_from(KEYS)),
    st.tuples(st.just("renew"), st.sampled_from(NAMES), st.sampled_from(KEYS)),
    st.tuples(st.just("wait"), st.sampled_from(NAMES), st.sampled_from(KEYS)),
)


class World:
    """A hub, and what must be true of it."""

    def __init__(self, folder: Path) -> None:
        self.office = Office(folder / "hub")
        self.tls = FileTlsKey.create(folder / "tls-key.pem")
        self.gone: set[str] = set()
        self.number = 0

    def do(self, what: str, name: str, key: SigningKey) -> None:
        row = self.office.row(name)
        at = "2026-12-01T00:00:00.000Z"
        try:
            if what == "revoke":
                self.office.write(partial(roster.revoke, node=name, why="it", at=at))
                self.gone |= {row.key} if row else set()
            elif what == "replace":
                self.office.write(partial(roster.replace, node=name, key=key.public, at=at))
                self.gone |= {row.key} if row and row.key != key.public else set()
            elif what == "admit":
                effect = partial(roster.admit, node=name, key=key.public, site="", at=at)
                self.office.write(effect)
            elif what == "wait":
                self.office.clock.move(60 * 86400)
            else:
                self.renew(name, key)
        except ApplianceError:
            assert self.office.row(name) == row, "what is refused changes nothing"

    def renew(self, name: str, key: SigningKey) -> None:
        self.number += 1
        request = CertificateRequest.parse(self.tls.request(name), name)
        asked = Asked(NodeId(name), key.public, f"{self.number:064x}", request, None)
        now = self.office.clock.utc()
        issue = partial(self.office.enrolment._issue, asked=asked, admitted=None, now=now)
        chain = Chain.parse(self.office.write(issue))
        row = self.office.row(name)
        assert row is not None
        assert (row.key, row.revoked_at) == (key.public, None)
        assert key.public not in self.gone
        assert chain.expires > now
        assert chain.serial not in self.office.revoked()

    def check(self) -> None:
        rows = [row for name in NAMES if (row := self.office.row(name)) is not None]
        for row in rows:
            assert (row.key in self.gone) == (row.revoked_at is not None)
        live = {row.key for row in rows if row.revoked_at is None}
        listed = set(self.office.revoked())
        issued = self.office.hub.db.read(
            lambda db: db.execute("SELECT serial, node_key FROM certificates").fetchall()
        )
        for serial, key in issued:
            assert (serial in listed) == (key not in live)


@settings(deadline=datetime.timedelta(seconds=5), max_examples=40)
@given(st.lists(DO, max_size=12))
def test_a_key_that_is_gone_never_comes_back(steps: list[tuple[str, str, SigningKey]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            for step in steps:
                world.do(*step)
                world.check()
        finally:
            world.office.close()
