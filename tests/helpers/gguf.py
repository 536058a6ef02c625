"""Small GGUF files: a true header, and a body of any size."""

import struct
from pathlib import Path

_STRING, _U32, _ARRAY = 8, 4, 9


def header(**facts: int | str) -> bytes:
    """Return a GGUF v3 header; keys use ``_`` for the first dot: ``llama_block_count``."""
    entries = b"".join(_entry(key.replace("__", "."), value) for key, value in facts.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(facts)) + entries


def small_llama(body: bytes = b"\0" * 4096) -> bytes:
    """Return a model file that the header reader understands and no engine would load."""
    facts: dict[str, int | str] = {
        "general__architecture": "llama",
        "llama__context_length": 8192,
        "llama__block_count": 30,
        "llama__embedding_length": 576,
        "llama__attention__head_count": 9,
        "llama__attention__head_count_kv": 3,
    }
    return header(**facts) + body


def write_small_llama(path: Path, body: bytes = b"\0" * 4096) -> Path:
    path.write_bytes(small_llama(body))
    return path


def _entry(key: str, value: int | str) -> bytes:
    name = struct.pack("<Q", len(key)) + key.encode()
    if isinstance(value, str):
        return name + struct.pack("<IQ", _STRING, len(value)) + value.encode()
    return name + struct.pack("<II", _U32, value)
