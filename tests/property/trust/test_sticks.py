"""Sticks in any order end in the same trust, and the floor goes down only with a key."""

import contextlib
import datetime
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.reader import BundleReader
from appliance.bundle.take.judge import Judge
from appliance.errors import DowngradeError
from appliance.kit.clock import rfc3339
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.trust import metadata
from appliance.trust.metadata import RoleSet
from appliance.trust.store import TrustStore
from tests.helpers.clock import ScriptedClock
from tests.helpers.signing import ISSUED, Draft, Edit, Signer

pytestmark = pytest.mark.slow


DAY = datetime.timedelta(days=1)
ROTATIONS: list[tuple[str, ...]] = [
    (), (), ("timestamp",), ("targets",), ("root",), ("timestamp", "targets", "root"),
]  # fmt: skip


def issued(day: int) -> Edit:
    text = rfc3339(ISSUED + day * DAY)
    return lambda part: part.unrecognized_fields.update({"x-issued": text})


def sticks(folder: Path, rotations: list[tuple[str, ...]]) -> tuple[Signer, list[Path]]:
    """Return what an organisation hands out over the months, each stick with all roots so far."""
    first = signer = Signer.new()
    roots = {1: signer.root_file()}
    made = []
    for number, rotated in enumerate(rotations, start=1):
        if rotated:
            new = signer.rotated(*rotated)
            version = len(roots) + 1
            roots[version] = new.root_file(version, by=signer.root, edit=issued(number))
            signer = new
        path = Draft(version=f"{number}.0.0").write(
            folder / str(number), signer, (number,) * 3, issued=ISSUED + number * DAY
        )
        for version, data in roots.items():
            (path / "tuf" / f"{version}.root.json").write_bytes(data)
        made.append(path)
    return first, made


@dataclass
class Box:
    """A node as far as judging goes."""

    trust: TrustStore
    ledger: Ledger
    judge: Judge

    def take(self, stick: Path) -> None:
        with contextlib.suppress(DowngradeError):  # what it wants is not listed any more
            self.judge.judge(BundleReader(FolderMedium(stick)))

    def trusted(self) -> tuple[bytes, RoleSet | None, object, datetime.datetime | None]:
        rows = self.ledger.read(meta.floor_rows)
        return self.trust.root(), self.trust.roles(), rows, self.floor()

    def floor(self) -> datetime.datetime | None:
        return self.ledger.read(meta.floor)


@contextlib.contextmanager
def box(folder: Path, signer: Signer, clock: datetime.datetime) -> Iterator[Box]:
    with tempfile.TemporaryDirectory(dir=folder) as state:
        trust, ledger = TrustStore(Path(state) / "tuf"), Ledger(Path(state) / "node.db")
        trust.init(signer.root_file())
        try:
            yield Box(trust, ledger, Judge(trust, ledger, ScriptedClock(utc=clock)))
        finally:
            ledger.close()


clocks = st.sampled_from([1970, 2027, 2038]).map(
    lambda year: datetime.datetime(year, 2, 1, tzinfo=datetime.UTC)
)
"""One that is right, and two that are wrong by years."""


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(ROTATIONS), min_size=2, max_size=3), clocks)
def test_sticks_in_any_order_end_in_the_same_trust(
    rotations: list[tuple[str, ...]], clock: datetime.datetime
) -> None:
    with tempfile.TemporaryDirectory() as name:
        signer, made = sticks(Path(name), rotations)
        ends = []
        for order in itertools.permutations(made):
            with box(Path(name), signer, clock) as node:
                for stick in order:
                    node.take(stick)
                ends.append(node.trusted())
        assert all(end == ends[0] for end in ends)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(ROTATIONS), min_size=2, max_size=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
)
def test_the_floor_goes_down_only_when_a_key_is_revoked(
    rotations: list[tuple[str, ...]], order: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        signer, made = sticks(Path(name), rotations)
        with box(Path(name), signer, ISSUED + 10 * DAY) as node:
            for number in order:
                before, uses = node.floor(), metadata.key_uses(node.trust.root())
                node.take(made[number % len(made)])
                after, kept = node.floor(), metadata.key_uses(node.trust.root())
                assert after is not None
                assert before is None or after >= before or uses - kept
