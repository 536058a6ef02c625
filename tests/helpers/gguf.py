"""Small GGUF files: a true header, and a body of any size or true tensors. And safetensors."""

import struct
from collections.abc import Mapping
from pathlib import Path

from appliance.core import wire

_STRING, _U32, _ARRAY = 8, 4, 9
_U8 = 24  # the type of a tensor of bytes
_LLAMA: dict[str, int | str] = {
    "general__architecture": "llama",
    "llama__context_length": 8192,
    "llama__block_count": 30,
    "llama__embedding_length": 576,
    "llama__attention__head_count": 9,
    "llama__attention__head_count_kv": 3,
}


def header(**facts: int | str) -> bytes:
    """Return a GGUF v3 header; keys use ``_`` for the first dot: ``llama_block_count``."""
    entries = b"".join(_entry(key.replace("__", "."), value) for key, value in facts.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(facts)) + entries


def small_llama(body: bytes = b"\0" * 4096) -> bytes:
    """Return a model file that the header reader understands and no engine would load."""
    return header(**_LLAMA) + body


def llama_of(
    tensors: Mapping[str, bytes], *, alignment: int = 32, **facts: int | str | list[str]
) -> bytes:
    """Return a llama's file with these tensors; ``facts`` are added to its metadata."""
    entries = {**_LLAMA, "general__alignment": alignment, **facts}
    infos, data = b"", b""
    for name, values in tensors.items():
        data += bytes(-len(data) % alignment)
        infos += struct.pack("<Q", len(name)) + name.encode()
        infos += struct.pack("<IQIQ", 1, len(values), _U8, len(data))
        data += values
    text = b"".join(_entry(key.replace("__", "."), value) for key, value in entries.items())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + text + infos
    return head + bytes(-len(head) % alignment) + data


def safetensors_of(tensors: Mapping[str, bytes], **metadata: str) -> bytes:
    """Return a safetensors file with these tensors of bytes."""
    described: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for name, values in tensors.items():
        place = [at, at := at + len(values)]
        described[name] = {"dtype": "U8", "shape": [len(values)], "data_offsets": place}
    head = wire.dumps(described)
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(tensors.values())


def write_small_llama(path: Path, body: bytes = b"\0" * 4096) -> Path:
    path.write_bytes(small_llama(body))
    return path


def _entry(key: str, value: int | str | list[str]) -> bytes:
    name = struct.pack("<Q", len(key)) + key.encode()
    if isinstance(value, list):
        texts = b"".join(struct.pack("<Q", len(text)) + text.encode() for text in value)
        return name + struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + texts
    if isinstance(value, str):
        return name + struct.pack("<IQ", _STRING, len(value)) + value.encode()
    return name + struct.pack("<II", _U32, value)
