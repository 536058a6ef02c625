"""Attacks by commands: by who holds the broker, the director's key, or an old recording."""

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from appliance.core.commands import Command
from appliance.node import identity
from appliance.node.commands import CommandInbox, Hands
from appliance.trust.envelope import Addressee, Slot
from tests.attacks import defences as d
from tests.attacks.attack import (
    ACCEPTED,
    DAY,
    FELL,
    HARMED,
    HARMLESS,
    HELD,
    NOW,
    SYNC,
    Attempt,
    Scene,
    attack,
    director,
    good,
)
from tests.attacks.on_keys import other
from tests.helpers.organisation import Node
from tests.helpers.signing import new_key

RESTART = {"verb": "restart-engine", "args": {"deployment": "notes"}}
PERMITTED = ["restart-engine", "run-golden-prompts"]
HERE = "restart-engine, hold"
ALL_NUMBERS = 2**53 - 1

by_director = partial(attack, row="director")


def took(s: Scene, epoch: int = 1, **changes: Any) -> None:
    """Have the node take a bundle in whose director may command."""
    draft = good()
    draft.director = director(epoch, verbs=PERMITTED, **changes)
    s.took(draft)


def command(s: Scene, counter: int = 1, **changes: Any) -> bytes:
    """Return a command; ``changes`` are to the payload, or how it is sealed."""
    how = {k: changes.pop(k) for k in ("slot", "key", "to", "issued") if k in changes}
    body = {"directorEpoch": 1, "counter": counter, **RESTART, **changes}
    return s.sealed(body, how.pop("slot", Slot.COMMAND), **how)


def commanding(data: bytes) -> Attempt:
    """Offer a command to a node that writes down what it does."""

    def offer(node: Node) -> object:
        done: list[Command] = []

        async def do(found: Command) -> dict[str, Any]:
            done.append(found)
            return {}

        inbox = commands(node, do)

        async def story() -> None:
            await inbox.command(data)
            await inbox.idle()

        asyncio.run(story())
        if inbox._held:
            return HELD
        return ACCEPTED if done else HARMLESS

    return offer


def commands(node: Node, do: Callable[[Command], Any]) -> CommandInbox:
    me = identity.load(node.state)
    to = Addressee("acme", me.node, me.key.public, node.ledger.epoch)
    clock = node.importer._parts.clock
    return CommandInbox(to, me.key, node.trust, node.ledger, clock, Hands(do, HERE))


@by_director("envelope 1", d.ENVELOPE_CAP, 27, kind="endless data")
def endless_command(s: Scene) -> Attempt:
    """A command never ends."""
    took(s)
    return commanding(command(s) + b" " * (64 << 10))


@by_director("envelope 2", d.ENVELOPE_TYPE, 27, kind="wrong role")
def word_in_place_of_a_command(s: Scene) -> Attempt:
    """What the director signed as a word is used as a command."""
    took(s)
    return commanding(command(s, slot=Slot.DESIRED))


@by_director("envelope 3", d.ENVELOPE_SIGNED, 20, kind="wrong key")
def command_by_a_stranger(s: Scene) -> Attempt:
    """Whoever took the broker over commands the node."""
    took(s)
    return commanding(command(s, key=new_key()))


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="sync", kind="wrong role")
def command_by_the_sync_key(s: Scene) -> Attempt:
    """The key that acknowledges commands the node."""
    took(s)
    return commanding(command(s, key=SYNC))


@by_director("envelope 4", d.ONE_MEANING, 27, kind="equivocation")
def command_with_two_meanings(s: Scene) -> Attempt:
    """One key stands twice, so that two readers see two commands."""
    took(s)
    plain = command(s)
    return commanding(plain[:-1] + b"," + plain[1:])


@by_director("envelope 5", d.ADDRESSEE["node"], 28, kind="replay")
def command_for_another_node(s: Scene) -> Attempt:
    """A command to another node is replayed here."""
    took(s)
    return commanding(command(s, to=replace(s.me, node="box-2")))


@by_director("envelope 5", d.ADDRESSEE["dbEpoch"], 28, kind="replay")
def command_for_an_older_ledger(s: Scene) -> Attempt:
    """A node is restored, and what it was once commanded is commanded again."""
    took(s)
    return commanding(command(s, to=replace(s.me, db_epoch="older")))


@by_director("envelope 6", d.DIRECTOR_EPOCH, 29, kind="revocation")
def command_of_a_director_that_was_replaced(s: Scene) -> Attempt:
    """A director goes on commanding although its epoch was ended offline."""
    took(s, 2)
    return commanding(command(s))


@by_director("envelope 6", d.DIRECTOR_EPOCH, HELD, kind="wrong role")
def command_of_a_director_whom_nobody_named(s: Scene) -> Attempt:
    """A director gives itself the next epoch, and commands."""
    took(s)
    return commanding(command(s, directorEpoch=2))


@by_director("envelope 7", d.ENVELOPE_EXPIRY, 21, kind="freeze")
def command_that_expired(s: Scene) -> Attempt:
    """A command is kept back, and delivered when it does harm."""
    took(s)
    return commanding(command(s, issued=NOW - 2 * DAY))


@by_director("envelope 7", d.COMMAND_NONCE, 21, kind="nonce", rests_on=(d.CLOCK,))
def command_to_a_node_that_cannot_know_the_time(s: Scene) -> Attempt:
    """The clock is set to 1970, so that a command kept back seems fresh."""
    took(s)
    s.at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return commanding(command(s))


@by_director("envelope 7", d.COMMAND_NONCE, 30, kind="nonce", rests_on=(d.CLOCK,))
def command_with_a_nonce_that_nobody_drew(s: Scene) -> Attempt:
    """A command to a node with a wrong clock names a nonce of its own."""
    took(s)
    s.at = datetime.datetime(2038, 1, 19, tzinfo=datetime.UTC)
    return commanding(command(s, nonce="ab" * 32))


@by_director("envelope 8", d.COUNTER, 30, kind="replay")
def command_of_an_older_counter(s: Scene) -> Attempt:
    """A command that was overtaken is delivered after all."""
    took(s)
    assert commanding(command(s, 7))(s.node) == ACCEPTED
    return commanding(command(s, 6))


@by_director("envelope 8", d.COUNTER, 31, kind="equivocation", without=FELL)
def two_commands_of_one_counter(s: Scene) -> Attempt:
    """Two different commands call themselves number 7."""
    took(s)
    assert commanding(command(s, 7))(s.node) == ACCEPTED
    return commanding(command(s, 7, args={"deployment": "other"}))


@by_director(
    "envelope 8", d.NEW_COUNTERS, ACCEPTED, kind="fast-forward recovery", without=30
)  # fmt: skip
def counters_that_a_thief_used_up(s: Scene) -> Attempt:
    """A thief of the director's key used up all counters; a director named anew goes on at 3."""
    took(s)
    assert commanding(command(s, ALL_NUMBERS))(s.node) == ACCEPTED
    honest, then = new_key(), other()
    then.director = director(2, keys=[honest.public], verbs=PERMITTED)
    s.took(then, versions=(2, 2, 2), also=good().listed())
    return commanding(command(s, 3, directorEpoch=2, key=honest))


@by_director("envelope 9", d.DIRECTORS_VERBS, 28, kind="wrong role")
def command_beyond_what_offline_keys_permit(s: Scene) -> Attempt:
    """The director commands what trust/director.json does not let it."""
    took(s)
    args = {"deployment": "notes", "reason": "mine"}
    return commanding(command(s, verb="hold", args=args))


@by_director("envelope 9", d.SITES_VERBS, 28, kind="wrong role")
def command_beyond_what_the_site_permits(s: Scene) -> Attempt:
    """The director commands what local staff does not permit."""
    took(s)
    return commanding(command(s, verb="run-golden-prompts"))


@by_director("envelope 9", d.ARGUMENTS, 27, kind="hostile argument")
def command_with_a_path_for_a_name(s: Scene) -> Attempt:
    """An argument climbs out of where it belongs."""
    took(s)
    return commanding(command(s, args={"deployment": "../../etc"}))


@by_director("envelope 10", d.BEGUN, HARMLESS, kind="replay", without=HARMED)
def command_that_kills_the_node_and_comes_again(s: Scene) -> Attempt:
    """The node dies in the middle of a command, and the broker delivers it again."""
    took(s)
    data, begun = command(s), list[str]()

    async def dies(found: Command) -> dict[str, Any]:
        begun.append(found.id)
        await asyncio.sleep(3600)
        return {}

    async def one_life(node: Node) -> None:
        inbox = commands(node, dies)
        await inbox.settle()
        await inbox.command(data)
        await asyncio.sleep(0.01)  # and the loop ends here, as with kill -9

    def twice(node: Node) -> object:
        begun.clear()
        for _ in range(2):
            asyncio.run(one_life(node))
        return HARMED if len(begun) > 1 else HARMLESS

    return twice
