"""A recipe is short, and no hostile one gets past what is signed."""

import io
import json
import os
from typing import Any

import pytest

from appliance.bundle.format import delta
from appliance.bundle.format.delta import MAX_RECIPE_BYTES, MAX_STEPS, Recipe, Sized, Step
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.core.tensors import PIECE, pieces
from appliance.errors import MalformedError
from tests.helpers.deltas import delta_of, sized
from tests.helpers.gguf import llama_of, safetensors_of

LAYERS = {
    f"block.{n}.attention.{part}.weight": os.urandom(4096) for n in range(6) for part in "qkvo"
}
VOCABULARY = [f"word {number}" for number in range(5000)]


def model(**notes: str) -> bytes:
    facts: dict[str, Any] = {"tokens": VOCABULARY, **notes}
    return llama_of(LAYERS, **facts)


def merged(*parts: str) -> dict[str, bytes]:
    """Return the layers after a LoRA was merged into some of their parts."""
    changed = {name: os.urandom(4096) for name in LAYERS if name.split(".")[3] in parts}
    return {**LAYERS, **changed}


def test_an_edited_entry_costs_itself_and_no_tensor() -> None:
    recipe, fresh = delta_of(model(note="x" * 200), model(note="y"))
    assert len(fresh) < 500
    assert len(recipe.steps) <= 6


def test_what_moves_by_one_alignment_is_still_the_same() -> None:
    old, new = model(note="y"), model(note="y" * 33)
    assert len(new) > len(old)
    assert len(delta_of(new, old)[1]) < 500


def test_a_merged_lora_costs_the_tensors_that_it_touched() -> None:
    new = llama_of(merged("q", "v"), tokens=VOCABULARY)
    _, fresh = delta_of(new, llama_of(LAYERS, tokens=VOCABULARY))
    assert len(fresh) == 12 * 4096
    new = safetensors_of(merged("q", "v"), made="later")
    assert len(delta_of(new, safetensors_of(LAYERS))[1]) < 12 * 4096 + 4096  # and the header


def test_a_tensor_is_cut_from_its_own_start() -> None:
    big = os.urandom(3 * PIECE + 100)
    edited = big[: PIECE + 7] + b"!" + big[PIECE + 8 :]
    for file_of in (llama_of, safetensors_of):
        old, new = file_of({"first": b"1" * 10, "big": big}), file_of({"big": edited})
        assert PIECE <= len(delta_of(new, old)[1]) < PIECE + 2000


def test_pieces_that_adjoin_are_one_step() -> None:
    old = model()
    recipe, fresh = delta_of(old, old)
    assert recipe == Recipe(sized(old), (sized(old),), (Step(0, 0, len(old)),))
    assert fresh == b""


def test_crumbs_are_sent_again_rather_than_looked_up() -> None:
    small = {name: values[:500] for name, values in LAYERS.items()}
    recipe, fresh = delta_of(
        llama_of(dict(reversed(small.items()))),
        llama_of(small),
    )
    assert recipe.bases == ()
    assert recipe.steps == (Step(None, 0, len(fresh)),)


def test_only_bases_that_give_something_are_named() -> None:
    old, other = model(), os.urandom(9000)
    assert delta_of(model(a="b"), other, old)[0].bases == (sized(old),)
    half = llama_of({**merged("q", "k"), "x": other})
    both, _ = delta_of(half, safetensors_of({"y": other}), old)
    assert {base.digest for base in both.bases} >= {sized(old).digest}
    assert [step.base for step in both.steps if step.base is not None]


def test_what_two_files_may_share_is_known_from_their_headers() -> None:
    def cut(data: bytes) -> Any:
        return pieces(io.BytesIO(data), len(data))

    other = llama_of({"q": bytes(70_000)})
    like = delta.likeness(cut(model()), cut(llama_of(merged("q"))))
    assert like >= len(LAYERS) * 4096
    assert delta.likeness(cut(model()), cut(other)) < 2000


def test_a_file_that_ends_early_is_said_to() -> None:
    with pytest.raises(MalformedError, match="ends after"):
        delta.chunks(io.BytesIO(b"abc"), 4)


OUTPUT = Sized(Digest("sha256:" + "1" * 64), 100)
BASE = Sized(Digest("sha256:" + "2" * 64), 60)
GOOD: dict[str, Any] = {
    "version": 1,
    "output": OUTPUT.to_wire(),
    "base": [BASE.to_wire()],
    "steps": [[0, 10, 50], ["new", 0, 30], ["new", 30, 20]],
}


def parse(data: bytes) -> Recipe:
    return delta.parse(data, OUTPUT)


def test_a_recipe_is_read_back() -> None:
    found = parse(wire.dumps(GOOD))
    assert found.new_bytes == 50
    assert json.loads(found.to_bytes()) == GOOD
    assert [found.new_offset(done) for done in (0, 49, 50, 51, 80, 99, 100)] == [
        0, 0, 0, 1, 30, 49, 50,
    ]  # fmt: skip
    assert list(found.after(79)) == [Step(None, 29, 1), Step(None, 30, 20)]
    assert list(found.after(100)) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"version": 2}, "not of version 1"),
        ({"version": None}, "not of version 1"),
        ({"output": {**OUTPUT.to_wire(), "size": 99}}, "makes another blob"),
        ({"output": BASE.to_wire()}, "makes another blob"),
        ({"output": None}, "without its length"),
        ({"output": {"digest": "sha256:x", "size": 1}}, "not a digest"),
        ({"base": None}, "not a list"),
        ({"base": [BASE.to_wire()] * 9}, "not a list of at most 8"),
        ({"base": [{"digest": BASE.digest, "size": True}]}, "without its length"),
        ({"base": [{"digest": "../../etc/passwd", "size": 60}]}, "not a digest"),
        ({"base": []}, "beyond the end of a base"),
        ({"steps": {}}, "not a list"),
        ({"steps": [[0, 0, 1]] * (MAX_STEPS + 1)}, "not a list of at most"),
        ({"steps": [[0, 0]]}, "not \\[base, offset, length\\]"),
        ({"steps": [[-1, 0, 60]]}, "a step of no base"),
        ({"steps": [["old", 0, 60]]}, "a step of no base"),
        ({"steps": [[None, 0, 60]]}, "a step of no base"),
        ({"steps": [[[], 0, 60]]}, "a step of no base"),
        ({"steps": [[1, 0, 60]]}, "beyond the end of a base"),
        ({"steps": [[0, 1, 60], ["new", 0, 40]]}, "beyond the end of a base"),
        ({"steps": [[0, 2**52, 60], ["new", 0, 40]]}, "beyond the end of a base"),
        ({"steps": [[0, -1, 60]]}, "without an offset"),
        ({"steps": [[0, 0, 0], ["new", 0, 100]]}, "without an offset and a length"),
        ({"steps": [["new", 1, 100]]}, "in order"),
        ({"steps": [["new", 0, 50], ["new", 0, 50]]}, "in order"),
        ({"steps": [["new", 0, 99]]}, "makes 99 bytes, 100 are signed"),
        ({"steps": [["new", 0, 101]]}, "makes 101 bytes"),
        ({"steps": [["new", 0, 2**52]]}, "makes 4503599627370496 bytes"),
        ({"steps": []}, "makes 0 bytes"),
    ],
)
def test_a_hostile_recipe_is_refused_before_a_byte_is_copied(
    changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(MalformedError, match=says):
        parse(wire.dumps({**GOOD, **changed}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "strict JSON"),
        (b"[" * 100_000, "strict JSON"),
        (b" " * (MAX_RECIPE_BYTES + 1), "is larger than"),
    ],
)
def test_what_is_no_recipe_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        parse(data)
