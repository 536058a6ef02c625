"""Whatever the bytes are, a reader returns what it promises or raises what it promises."""

import contextlib
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core import wire, yamldoc
from appliance.core.gguf import GgufHeader, read_header
from appliance.core.routes import ApiKey, Endpoint, Route, RouteSnapshot
from appliance.errors import BadDocumentError, MalformedError
from tests.helpers.gguf import header, small_llama
from tests.helpers.strategies import damaged, json_values, words

pytestmark = pytest.mark.slow


LLAMA = small_llama(b"")
JSON_LIKE = st.lists(
    st.sampled_from(
        [*'{}[]",: \\', "\\u", "d800", '"a"', '"b":', "1e400", "-0", "9" * 17, "1.5", "null", "NaN"]
    )
).map(lambda parts: "".join(parts).encode())
YAML_LIKE = st.lists(
    st.sampled_from(
        ["\n", " ", "  ", "a", "b", ": ", "- ", "{", "}", "[", "]", ",", "&a ", "*a", "? ", "| ",
         "> ", "'", '"', "#", "!", "!!int ", "!!bool ", "!!map ", "!x:str ", "<<", "=", "---\n",
         "...\n", "%YAML 1.1\n", "0x", "0b", "_", "1", "2026-01-01", ":", ".", "~", "\t",
         "\x85", "é"]
    ),
    max_size=24,
).map("".join)  # fmt: skip


def check_header(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        found = read_header(io.BytesIO(data))
        for size in (found.context_length, found.layers, found.kv_bytes_per_token):
            assert size is None or 0 < size < wire.MAX_INTEGER


@given(st.binary(max_size=256))
def test_random_bytes_are_no_model(data: bytes) -> None:
    check_header(data)
    check_header(b"GGUF\3\0\0\0" + data)


@given(st.integers(0, len(LLAMA) - 8), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_is_refused_or_says_something_possible(at: int, patch: bytes) -> None:
    check_header(LLAMA[:at] + patch + LLAMA[at + len(patch) :])


@given(st.fixed_dictionaries({f"llama__{name}": st.integers(0, 2**32 - 1) for name in (
    "context_length", "block_count", "embedding_length", "attention__head_count",
    "attention__head_count_kv", "attention__key_length", "attention__value_length",
)}))  # fmt: skip
def test_any_sizes_give_a_possible_cache_or_none(sizes: dict[str, int]) -> None:
    check_header(header(general__architecture="llama", **sizes))


def test_the_sizes_of_a_true_header_are_possible() -> None:
    check_header(LLAMA)
    assert read_header(io.BytesIO(LLAMA)) != GgufHeader(None, None, None, None)


@given(st.dictionaries(words, json_values))
def test_json_survives_a_round_trip_and_has_one_form(value: dict[str, object]) -> None:
    data = wire.dumps(value)
    assert wire.loads(data, what="it") == value
    assert wire.dumps(wire.loads(data, what="it")) == data


@given(st.binary(max_size=64) | JSON_LIKE)
@example(b'{"a":"\\ud800"}')
@example(b'{"a":1e400}')
def test_what_was_read_as_json_can_be_written_again(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        found = wire.loads(data, what="it")
        assert wire.loads(wire.dumps(found), what="it") == found


@given(st.text(max_size=64) | YAML_LIKE)
@example('a: !!int ""')
@example("a: !!bool maybe")
def test_any_text_is_plain_data_or_a_bad_document(text: str) -> None:
    with contextlib.suppress(BadDocumentError):
        for found in yamldoc.parse(text, "f"):
            assert found.line(("anything", 1)) >= 1


SNAPSHOT = RouteSnapshot(
    (Route("m", ("chat",), (Endpoint("m-0", "/run/e.sock"),)),), (ApiKey("k", "t", "0" * 64),)
)


@given(damaged(wire.loads(SNAPSHOT.dump(), what="it")))
def test_a_damaged_snapshot_is_read_or_refused(data: object) -> None:
    with contextlib.suppress(MalformedError):
        RouteSnapshot.load(wire.dumps(data))
