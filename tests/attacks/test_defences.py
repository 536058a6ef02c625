"""Each attack is stopped by one defence: switched off, exactly its own attacks end differently.

That is so for every attack and every defence. An attack is not played again where that cannot make
a difference: it never comes to what is switched off, or that found nothing to complain of.
"""

from collections.abc import Mapping
from functools import partial

import pytest

from tests.attacks.attack import Attack, Stage, Verdict
from tests.attacks.corpus import ATTACKS, DEFENCES
from tests.attacks.switches import Defence


@pytest.fixture(scope="session")
def concerned(stage: Stage) -> Mapping[Defence, set[Attack]]:
    """The attacks to which each defence may matter; nobody sees who reads a constant."""
    found = {d: set[Attack]() if d.is_seen else set(ATTACKS) for d in DEFENCES}
    for attack in ATTACKS:
        stage.prepare(attack)  # with all defences on
        with pytest.MonkeyPatch.context() as patch:
            for defence in DEFENCES:
                if defence.is_seen:
                    defence.watch(patch, partial(found[defence].add, attack))
            assert stage.play(attack) == attack.verdict
    return found


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: d.what)
def test_without_it_exactly_its_own_attacks_get_past(
    stage: Stage,
    concerned: Mapping[Defence, set[Attack]],
    defence: Defence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defence.switch_off(monkeypatch)
    ended: dict[Attack, Verdict] = {a: stage.play(a) for a in ATTACKS if a in concerned[defence]}
    past = {a.name: end for a, end in ended.items() if end != a.verdict}
    assert past.keys() == {a.name for a in ATTACKS if a.needs(defence)}
    own = {a.name: a.without for a in ATTACKS if a.needs(defence) and a.defence is defence}
    assert {name: past[name] for name in own} == own


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.twin], ids=lambda a: a.name)
def test_what_two_defences_stop_gets_past_without_both(
    stage: Stage, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage.play(attack) == attack.verdict
    assert attack.twin is not None
    for defence in (attack.defence, attack.twin):
        defence.switch_off(monkeypatch)
    assert stage.play(attack) == attack.without
