"""A header is read for what it says; a hostile one is refused before it costs anything."""

import io
import struct
from collections.abc import Iterator

import pytest

from appliance.core.gguf import MAX_HEADER_BYTES, GgufHeader, read_header
from appliance.errors import MalformedError
from tests.helpers.gguf import header, small_llama

STRING, ARRAY = 8, 9
SIZES: dict[str, int | str] = {
    "general__architecture": "llama",
    "llama__block_count": 30,
    "llama__embedding_length": 576,
    "llama__attention__head_count": 9,
}


def read(data: bytes) -> GgufHeader:
    return read_header(io.BytesIO(data))


def start(entries: int = 1, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, entries)


def entry(kind: int, value: bytes, key: bytes = b"k") -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def listing(kind: int, count: int) -> bytes:
    return entry(ARRAY, struct.pack("<IQ", kind, count))


def test_a_llama_header_gives_the_sizes_of_its_kv_cache() -> None:
    assert read(small_llama()) == GgufHeader("llama", 8192, 30, 30 * 3 * (64 + 64) * 2)


def test_key_and_value_lengths_that_are_stated_count_more_than_derived_ones() -> None:
    stated = {"llama__attention__key_length": 128, "llama__attention__value_length": 96}
    assert read(header(**SIZES, **stated)).kv_bytes_per_token == 30 * 9 * (128 + 96) * 2


@pytest.mark.parametrize("missing", sorted(set(SIZES) - {"general__architecture"}))
def test_a_size_that_cannot_be_known_is_not_zero(missing: str) -> None:
    facts = {key: value for key, value in SIZES.items() if key != missing}
    assert read(header(**facts)).kv_bytes_per_token is None


@pytest.mark.parametrize(
    "changed",
    [
        {"llama__embedding_length": 8},  # less than one for each head
        {"llama__block_count": 0},
        {"llama__block_count": 2**31},
        {"llama__block_count": "thirty"},
        {"llama__block_count": 2**31 - 1, "llama__embedding_length": 2**31 - 1},
    ],
)
def test_a_size_that_makes_no_sense_is_not_known(changed: dict[str, int | str]) -> None:
    assert read(header(**{**SIZES, **changed})).kv_bytes_per_token is None


def test_a_header_without_entries_says_nothing() -> None:
    assert read(start(entries=0)) == GgufHeader(None, None, None, None)


def test_every_kind_of_value_is_passed_over_to_the_next_entry() -> None:
    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    values = [entry(kind, bytes(width)) for kind, width in widths.items()]
    values += [listing(kind, 3) + bytes(3 * width) for kind, width in widths.items()]
    values.append(listing(STRING, 2) + struct.pack("<Q1sQ", 1, b"a", 0))
    values.append(entry(STRING, struct.pack("<Q5s", 5, b"llama"), b"general.architecture"))
    assert read(start(len(values)) + b"".join(values)).architecture == "llama"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends in the middle"),
        (b"PK\3\4" + bytes(64), "does not begin with GGUF"),
        (start(version=1), "version 1 is not one"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),  # big-endian
        (start(entries=2**64 - 1), "claims 18446744073709551615 entries"),
        (start() + struct.pack("<Q", 2**63), "claims a text of"),
        (start() + entry(STRING, struct.pack("<Q", 2**40)), "claims a text of"),
        (start() + listing(0, 2**50), "claims a list of"),
        (start() + listing(STRING, 2**50), "claims a list of"),
        (start() + listing(ARRAY, 1), "a list of type 9"),
        (start() + listing(77, 1), "a list of type 77"),
        (start() + entry(13, bytes(8)), "unknown type 13"),
        (start() + entry(2**32 - 1, b""), "unknown type 4294967295"),
        (start(entries=2) + entry(0, b"\1"), "ends in the middle"),
    ],
)
def test_a_hostile_header_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        read(data)


def test_a_header_that_is_cut_anywhere_is_refused() -> None:
    whole = header(**SIZES)
    for length in range(len(whole)):
        with pytest.raises(MalformedError):
            read(whole[:length])


class Endless(io.RawIOBase):
    """A file that goes on for ever, and counts what was read of it."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        super().__init__()
        self.parts = parts
        self.held = b""
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        while len(self.held) < size:
            self.held += next(self.parts)
        found, self.held = self.held[:size], self.held[size:]
        self.count += size
        return found


def test_a_header_without_end_is_given_up_after_a_bounded_number_of_bytes() -> None:
    def parts() -> Iterator[bytes]:
        yield start(entries=65_536)
        text = struct.pack("<Q", 15 << 20) + bytes(15 << 20)
        while True:
            yield entry(STRING, text)

    file = Endless(parts())
    with pytest.raises(MalformedError, match="larger than"):
        read_header(file)  # type: ignore[arg-type]
    assert file.count <= MAX_HEADER_BYTES
