"""Whatever was edited, what is rebuilt is the new file; whatever a recipe says, it does no harm."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle.format import delta
from appliance.bundle.format.delta import MAX_RECIPE_BYTES
from appliance.core import wire
from appliance.errors import MalformedError, RefusedError
from tests.helpers.deltas import delta_of, rebuild, sized
from tests.helpers.gguf import llama_of, safetensors_of

pytestmark = pytest.mark.slow


blocks = st.binary(min_size=1, max_size=64).map(lambda part: part * 200)
names = st.sampled_from(["q", "k", "v", "up", "down", "embed"])
models = st.dictionaries(names, blocks, max_size=6)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw a file of weights, or one that is cut, lengthened or not weights at all."""
    note = draw(st.text(max_size=20))
    made: bytes = draw(
        st.one_of(
            models.map(lambda tensors: llama_of(tensors, note=note)),
            models.map(lambda tensors: safetensors_of(tensors, note=note)),
            st.binary(max_size=2000),
        )
    )
    end = draw(st.one_of(st.just(len(made)), st.integers(0, len(made))))
    return made[:end] + draw(st.binary(max_size=30))


@given(new=files(), olds=st.lists(files(), max_size=3))
def test_what_is_rebuilt_is_the_new_file(new: bytes, olds: list[bytes]) -> None:
    recipe, fresh = delta_of(new, *olds)
    parsed = delta.parse(recipe.to_bytes(), sized(new))
    assert parsed == recipe
    assert recipe.new_bytes == len(fresh) <= len(new)
    with tempfile.TemporaryDirectory() as folder:
        assert rebuild(parsed, fresh, Path(folder), *olds) == new


@given(new=files(), old=files(), share=st.floats(0, 1))
def test_an_interrupted_one_is_gone_on_with_from_any_byte(
    new: bytes, old: bytes, share: float
) -> None:
    recipe, fresh = delta_of(new, old)
    done = int(len(new) * share)
    with tempfile.TemporaryDirectory() as folder:
        assert rebuild(recipe, fresh, Path(folder), old, done=done) == new[done:]


OLD = llama_of({"q": bytes(5000), "v": b"v" * 3000})
NEW = llama_of({"q": bytes(5000), "v": b"w" * 3000})
numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 10_000), st.sampled_from([True, None, 0.0, 2**52, "new", []])
)
steps = st.lists(st.one_of(st.lists(numbers, max_size=4), numbers), max_size=4)


@given(steps=steps, base=st.lists(st.sampled_from([sized(OLD).to_wire(), {}, 1]), max_size=3))
def test_a_hostile_recipe_is_refused_or_makes_exactly_as_much_as_is_signed(
    steps: list[Any], base: list[Any]
) -> None:
    data = wire.dumps({"version": 1, "output": sized(NEW).to_wire(), "base": base, "steps": steps})
    try:
        recipe = delta.parse(data, sized(NEW))
        with tempfile.TemporaryDirectory() as folder:
            made = rebuild(recipe, bytes(100), Path(folder), OLD)
    except RefusedError:
        return
    assert len(made) == len(NEW)


@given(data=st.one_of(st.binary(max_size=200), st.just(bytes(MAX_RECIPE_BYTES + 1))))
def test_what_is_no_recipe_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        delta.parse(data, sized(NEW))
    assert len(str(caught.value)) < 400
