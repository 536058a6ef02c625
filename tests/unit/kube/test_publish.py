"""What nodes say they hold, and what is read of it."""

from dataclasses import replace
from typing import Any

from appliance.core.ids import Digest
from appliance.core.machine import Gpu, GpuSurvey, MachineFacts
from appliance.core.model import NOT_LISTED, Denial, Variant
from appliance.kube.objects.publish import (
    ModelView,
    NodeEntry,
    Own,
    body,
    holdings,
    manager_of,
    model_writes,
    read_model,
    read_site,
    site_status,
    without,
)
from appliance.kube.resources import MODELS, SITES

GPU = Gpu("GPU-1", "L4", None, 24 << 30, 20 << 30)
MACHINE = MachineFacts(None, 8.0, 64 << 30, 60 << 30, GpuSurvey((GPU,), "read"))


def digest(letter: str) -> Digest:
    return Digest("sha256:" + letter * 64)


def variant(name: str = "Q4_0", letter: str = "a", version: str = "1.0.0") -> Variant:
    return Variant(
        "small", version, name, "acme", "MIT", digest(letter), digest("f"), 1000,
        "model.gguf", "gguf", ("chat",), 8192, 23040,
    )  # fmt: skip


def own(*variants: Variant, node: str = "n1", **more: Any) -> Own:
    return Own(node, f"id-{node}", "0.4", variants, more.pop("denied", {}), MACHINE, **more)


def shown(*owns: Own, managers: tuple[str, ...] = ()) -> dict[str, ModelView]:
    """Return what is shown after nodes wrote what they have, one after the other."""
    view: dict[str, ModelView] = {}
    for one in owns:
        for write in model_writes(one, view):
            view[write.name] = applied(view.get(write.name), one.node, write.spec, write.status)
    return {k: replace(v, managers=v.managers | set(managers)) for k, v in view.items()}


def applied(view: ModelView | None, node: str, spec: Any, status: Any) -> ModelView:
    """Apply a write as a server would, ownership aside."""
    found = body(MODELS, "small", spec=spec or {}, status=status or {})
    told = read_model({**found, "metadata": {"name": "small", "uid": "u"}})
    if view is None:
        return replace(told, managers=frozenset({manager_of(node)}))
    variants = {(v.version, v.name): v for v in (*view.variants, *told.variants)}
    nodes = {n.name: n for n in (*view.nodes, *told.nodes)}
    return replace(
        view,
        variants=tuple(variants.values()),
        nodes=tuple(nodes.values()),
        about=told.about or view.about,
        managers=view.managers | {manager_of(node)},
    )


def test_what_is_said_is_read_again_and_then_there_is_nothing_to_say() -> None:
    mine = own(variant(), variant("Q8_0", "b"), denied={digest("b"): Denial(NOT_LISTED, "old")})
    view = shown(mine)
    (found,) = holdings(view.values(), ())
    assert (found.node, found.variants) == ("n1", mine.variants)
    assert found.denied == mine.denied
    assert dict(view["small"].about)["summary"] == "1.0.0 Q4_0 Q8_0"
    assert model_writes(mine, view) == []


def test_two_nodes_with_the_same_each_own_it() -> None:
    view = shown(own(variant()))
    (write,) = model_writes(own(variant(), node="n2"), view)
    assert write.spec is not None
    assert not write.force
    assert {e.name for e in shown(own(variant()), own(variant(), node="n2"))["small"].nodes} == {
        "n1",
        "n2",
    }


def test_a_changed_denial_is_a_change_of_status_alone() -> None:
    view = shown(own(variant()))
    (write,) = model_writes(own(variant(), denied={digest("a"): Denial("Revoked", "x")}), view)
    assert write.spec is None
    assert write.status is not None


def test_who_held_the_digest_that_is_shown_may_replace_it() -> None:
    view = shown(own(variant()))
    (write,) = model_writes(own(variant(letter="b")), view)
    assert write.force
    assert write.spec is not None
    assert write.spec["variants"][0]["manifest"] == digest("b")


def test_who_never_held_it_gives_way_and_is_not_planned_for() -> None:
    view = shown(own(variant(letter="b")), own(variant(letter="a"), node="n2"))
    assert [v.manifest for v in view["small"].variants] == [digest("b")]
    found = {h.node: h.variants for h in holdings(view.values(), ())}
    assert found == {"n1": (variant(letter="b"),), "n2": ()}
    assert model_writes(own(variant(letter="a"), node="n2"), view) == []


def test_the_last_node_to_leave_deletes_it_unless_somebody_else_wrote() -> None:
    view = shown(own(variant()), own(variant(), node="n2"))
    (write,) = model_writes(own(), view)
    assert (write.leaves, write.delete_uid) == (True, "")
    (write,) = model_writes(own(), shown(own(variant())))
    assert write.delete_uid == "u"
    (write,) = model_writes(own(), shown(own(variant()), managers=("kubectl",)))
    assert (write.leaves, write.delete_uid) == (True, "")


def test_a_node_that_is_not_in_it_leaves_it_alone() -> None:
    assert model_writes(own(node="n3"), shown(own(variant()))) == []


def test_peoples_words_about_a_model_stand() -> None:
    view = shown(own(variant()), managers=("kubectl",))
    view = {"small": replace(view["small"], about=(("publisher", "ours"),))}
    (write,) = model_writes(own(variant("Q8_0", "b"), variant()), view)
    assert write.spec is not None
    assert "publisher" not in write.spec
    assert write.spec["licence"] == "MIT"


def test_taking_a_nodes_word_back_keeps_what_others_hold() -> None:
    entry = {"version": "1", "name": "a", "manifest": digest("a")}
    other = {"version": "1", "name": "b", "manifest": digest("b")}
    found = {
        "metadata": {"name": "small", "resourceVersion": "7"},
        "spec": {"variants": [entry, other]},
        "status": {
            "nodes": [
                {"name": "n1", "held": [digest("a"), digest("b")]},
                {"name": "n2", "held": [digest("b")]},
            ]
        },
    }
    spec, status = without("n1", found)
    assert spec == {"metadata": {"resourceVersion": "7"}, "spec": {"variants": [other]}}
    assert [n["name"] for n in status["status"]["nodes"]] == ["n2"]


def test_a_machine_is_read_as_it_was_said_and_what_is_not_known_stays_so() -> None:
    said = site_status(own(fenced={"GPU-1": "XID 79"}, disk_pressure=True))
    (found,) = read_site(body(SITES, "s", status=said)).nodes
    assert found.machine.memory_bytes == 64 << 30
    assert found.machine.gpus.gpus is not None
    assert found.machine.gpus.gpus[0].memory_bytes == 24 << 30
    assert (found.fenced, found.disk_pressure, found.id) == ({"GPU-1": "XID 79"}, True, "id-n1")
    bare = replace(own(), machine=MachineFacts(None, None, None, None, GpuSurvey(None, "?")))
    (found,) = read_site(body(SITES, "s", status=site_status(bare))).nodes
    assert (found.machine.memory_bytes, found.machine.gpus.gpus) == (None, None)
    assert found.disk_pressure is None


def test_a_node_that_only_described_its_machine_holds_nothing() -> None:
    site = read_site(body(SITES, "s", status=site_status(own())))
    (found,) = holdings((), (site,))
    assert (found.node, found.variants) == ("n1", ())


def test_entries_that_make_no_sense_are_left_out() -> None:
    spec = {"variants": [{"version": "1", "name": "a", "manifest": "latest"}]}
    status = {"nodes": [{"held": []}, {"name": "n", "held": ["latest"]}, {"name": "m"}]}
    view = read_model({"metadata": {"name": "small"}, "spec": spec, "status": status})
    assert (view.variants, view.nodes) == ((), (NodeEntry("m", frozenset()),))


def test_a_fenced_gpu_whose_number_is_none_gets_into_no_expression() -> None:
    gpus = [
        {"uuid": 'x"]) || true || ("', "name": "g", "fenced": "because"},
        {"uuid": "GPU-1", "name": "g", "fenced": "XID 79"},
    ]
    view = read_site(
        {"metadata": {"name": "here"}, "status": {"nodes": [{"name": "n1", "gpus": gpus}]}}
    )
    assert view.nodes[0].fenced == {"GPU-1": "XID 79"}
