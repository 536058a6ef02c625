"""Nodes tell a server in memory what they hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from appliance.core.ids import Digest
from appliance.core.machine import GpuSurvey, MachineFacts
from appliance.core.model import Variant
from appliance.errors import ApplianceError
from appliance.kube.informer import Informer, Pace, Selection
from appliance.kube.objects.publish import (
    ModelView,
    NodeHolding,
    Own,
    SiteView,
    body,
    holdings,
    read_model,
    read_site,
)
from appliance.kube.resources import MODELS, SITES
from appliance.node.publish import Publisher, leave
from tests.fakes.kubeapi import FakeKubeApi
from tests.helpers.waiting import until

PACE = Pace(first_s=0.01, most_s=0.02)


def variant(letter: str = "a", model: str = "small") -> Variant:
    return Variant(
        model, "1.0.0", "Q4_0", "acme", "MIT", Digest("sha256:" + letter * 64),
        Digest("sha256:" + "f" * 64), 1000, "model.gguf", "gguf", ("chat",),
    )  # fmt: skip


class Member:
    """A node of the site, with watches of its own."""

    def __init__(self, api: FakeKubeApi, name: str, *variants: Variant) -> None:
        facts = MachineFacts(None, None, 8 << 30, None, GpuSurvey((), "none"))
        self.own = Own(name, f"id-{name}", "0.4", variants, {}, facts)
        self.models: Informer[ModelView] = Informer(
            api, Selection(MODELS.path()), read_model, lambda _: None, PACE
        )
        self.sites: Informer[SiteView] = Informer(
            api, Selection(SITES.path()), read_site, lambda _: None, PACE
        )
        self.publisher = Publisher(api, self.models, self.sites, lambda: self.own, site="here")

    def hold(self, *variants: Variant) -> None:
        self.own = replace(self.own, variants=variants)

    def sees(self) -> dict[str, NodeHolding]:
        found = holdings(self.models.items().values(), self.sites.items().values())
        return {holding.node: holding for holding in found}


@asynccontextmanager
async def site(*members: Member) -> AsyncIterator[None]:
    for member in members:
        member.models.start()
        member.sites.start()
    try:
        yield
    finally:
        for member in members:
            await asyncio.gather(member.models.close(), member.sites.close())


async def settled(api: FakeKubeApi, *members: Member) -> None:
    """Let all look until nobody changes anything; a conflict is what a loop would repeat."""
    while True:
        before = api.version
        for member in members:
            try:
                await member.publisher.look()
            except ApplianceError:
                await asyncio.sleep(0.01)
            for watch in (member.models, member.sites):
                await until(partial(caught_up, api, watch))
        await asyncio.sleep(0.02)
        if api.version == before:
            return


def caught_up(api: FakeKubeApi, watch: Informer[ModelView] | Informer[SiteView]) -> bool:
    kind = watch._what.path.strip("/")
    newest = max((version for version, key, *_ in api.log if key[0] == kind), default=0)
    return int(watch._since or 0) >= newest


def test_nodes_see_what_each_of_them_holds_and_say_it_once() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        one, two = Member(api, "n1", variant()), Member(api, "n2", variant(), variant("b", "big"))
        async with site(one, two):
            await settled(api, one, two)
            seen = one.sees()
            assert [v.model for v in seen["n2"].variants] == ["big", "small"]
            assert seen["n1"].machine.memory_bytes == 8 << 30
            before = api.calls
            await one.publisher.look()
            await two.publisher.look()
            assert api.calls == before

    asyncio.run(story())


def test_what_a_node_holds_no_more_goes_and_the_last_one_takes_the_model_along() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        one, two = Member(api, "n1", variant()), Member(api, "n2", variant())
        async with site(one, two):
            await settled(api, one, two)
            one.hold()
            await settled(api, one, two)
            assert (one.sees()["n1"].variants, one.sees()["n2"].variants) == ((), (variant(),))
            two.hold()
            await settled(api, one, two)
            assert api.list(MODELS.path())[0] == []

    asyncio.run(story())


def test_a_new_digest_goes_through_the_site_node_by_node() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        one, two = Member(api, "n1", variant("a")), Member(api, "n2", variant("a"))
        async with site(one, two):
            await settled(api, one, two)
            one.hold(variant("b"))
            await settled(api, one, two)
            assert one.sees()["n1"].variants == (variant("b"),)
            assert one.sees()["n2"].variants == ()
            two.hold(variant("b"))
            await settled(api, one, two)
            assert one.sees()["n2"].variants == (variant("b"),)

    asyncio.run(story())


def test_an_entry_that_somebody_deleted_comes_back() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        one = Member(api, "n1", variant())
        async with site(one):
            await settled(api, one)
            api.delete(MODELS.path(name="small"))
            api.delete(SITES.path(name="here"))
            await until(lambda: not one.sees())
            await settled(api, one)
            assert one.sees()["n1"].variants == (variant(),)

    asyncio.run(story())


def test_what_another_site_says_of_a_node_goes_and_what_it_says_of_others_stays() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        one = Member(api, "n1", variant())
        path = SITES.path(name="elsewhere")
        api.apply(path, body(SITES, "elsewhere", spec={}))
        forged = {"nodes": [{"name": "n1", "memoryBytes": 0}, {"name": "n9", "memoryBytes": 1}]}
        api.apply(f"{path}/status", body(SITES, "elsewhere", status=forged))
        async with site(one):
            await until(lambda: len(one.sites) == 1)
            await settled(api, one)
            assert one.sees()["n1"].machine.memory_bytes == 8 << 30
            assert one.sees()["n9"].machine.memory_bytes == 1

    asyncio.run(story())


def test_a_model_that_somebody_else_wrote_to_is_left_and_a_lost_nodes_word_can_be_taken() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        one, two = Member(api, "n1", variant()), Member(api, "n2", variant())
        note: dict[str, Any] = {"apiVersion": MODELS.api_version, "kind": MODELS.kind}
        note |= {"metadata": {"name": "small", "annotations": {"why": "for triage"}}}
        api.apply(MODELS.path(name="small"), note, manager="kubectl")
        async with site(one, two):
            await settled(api, one, two)
            leave(api, MODELS, "small", "n2")
            leave(api, SITES, "here", "n2")
            await until(lambda: set(one.sees()) == {"n1"})
            one.hold()
            await settled(api, one)
            (found,) = api.list(MODELS.path())[0]
            assert (found["spec"]["variants"], found["status"]["nodes"]) == ([], [])

    asyncio.run(story())
