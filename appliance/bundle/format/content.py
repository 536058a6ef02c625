"""What files of a model may be, by name and by content.

Weights are GGUF or safetensors: formats that describe tensors and run nothing. What Python
unpickles (``.pt``, ``.bin``, ``.ckpt``, ``.pkl``, arrays of objects) runs code when it is opened,
so it is refused, whatever its name says. Used where bundles are locked and built, and by nodes.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from appliance.core import gguf, safetensors, wire
from appliance.core.ids import Digest
from appliance.core.model import FileKind, ModelFile
from appliance.errors import MalformedError

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
"""A file's or a folder's name: nothing hidden, nothing that leads elsewhere, no name too long."""
MAX_DEPTH = 8
CAPS = {FileKind.CONFIG: 64 << 20, FileKind.DOC: 16 << 20}
"""The most bytes of a file that is not weights."""

_SUFFIXES = {
    FileKind.WEIGHT: {".gguf", ".safetensors"},
    FileKind.CONFIG: {".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab"},
    FileKind.DOC: {"", ".md", ".txt", ".rst"},
}
_DOCUMENTS = re.compile(r"(README|LICEN[CS]E|NOTICE|COPYING|USE_POLICY)", re.IGNORECASE)
_UNSAFE = {
    ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".joblib", ".h5", ".keras",
}  # fmt: skip
_MAGICS = {
    b"PK\x03\x04": "a zip, as torch.save writes one around a pickle",
    b"\x93NUMPY": "a NumPy array, which may hold a pickle",
    b"\x89HDF": "HDF5",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "compressed",
}
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(6))
_HINT = "weights are GGUF or safetensors; convert it where it was made"
_CONFIG = "config.json"
_MAX_CONFIG_BYTES = 4 << 20
_F16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What files of a model say of it; ``None`` where they do not."""

    format: str
    architecture: str | None
    context_max: int | None
    kv_bytes_per_token: int | None


NOTHING = Facts("", None, None, None)


def kind_of(path: str) -> FileKind:
    """Return what a file is for, by its name.

    Raises:
        MalformedError: a model has no such files.
    """
    name = PurePosixPath(path)
    if _DOCUMENTS.match(name.name) or name.suffix.lower() == ".md":
        return FileKind.DOC
    for kind in (FileKind.WEIGHT, FileKind.CONFIG):
        if name.suffix.lower() in _SUFFIXES[kind]:
            return kind
    raise refused(path)


def refused(path: str) -> MalformedError:
    """Return what to say of a file that no model may have."""
    if PurePosixPath(path).suffix.lower() in _UNSAFE:
        what = f"{path[:80]!r} is of a format that runs code when it is opened (pickle)"
        return MalformedError(what, hint=_HINT)
    what = f"{path[:80]!r} is neither weights nor a text that belongs to a model"
    return MalformedError(what, hint=_HINT)


def check_name(path: object, kind: FileKind) -> str:
    """Return ``path`` as the name of a file of this kind.

    Raises:
        MalformedError: it leads elsewhere, hides, is too long, or is not of this kind.
    """
    parts = path.split("/") if isinstance(path, str) else []
    if not 1 <= len(parts) <= MAX_DEPTH or not all(NAME.fullmatch(part) for part in parts):
        raise MalformedError(f"{str(path)[:80]!r} is not a plain file name or relative path")
    if PurePosixPath(parts[-1]).suffix.lower() not in _SUFFIXES[kind]:
        raise refused("/".join(parts))
    return "/".join(parts)


def check_together(files: Iterable[ModelFile]) -> None:
    """Check that files can lie in one folder, and are weights of one format.

    Raises:
        MalformedError: two have one name (to file systems that do not tell cases apart, too), one
            is the folder of another, or there are no weights or those of two formats.
    """
    found = list(files)
    names = [file.path.lower() for file in found]
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    if len(set(names)) != len(names) or folders & set(names):
        raise MalformedError("two files of the model have one name")
    formats = {_format(file.path) for file in found if file.kind is FileKind.WEIGHT}
    if len(formats) != 1:
        raise MalformedError("a model is weights of one format, GGUF or safetensors", hint=_HINT)


def primary(files: Iterable[ModelFile]) -> ModelFile:
    """Return the file of weights that an engine is told to open: the first by name."""
    return min((f for f in files if f.kind is FileKind.WEIGHT), key=lambda file: file.path)


def is_parsed(path: str, kind: FileKind) -> bool:
    """Whether more than the first bytes of a file are looked at."""
    return kind is FileKind.WEIGHT or path == _CONFIG


def look(path: str, kind: FileKind, stream: BinaryIO) -> Facts:
    """Look into one file, which ``stream`` stands at the beginning of.

    Returns:
        What it says of the model: the header of a GGUF file, ``config.json`` beside safetensors.

    Raises:
        MalformedError: its content is not what its name says, or of a format that runs code.
    """
    size = os.fstat(stream.fileno()).st_size
    head = stream.read(16)
    stream.seek(0)
    _check_magic(path, kind, head)
    if kind is not FileKind.WEIGHT:
        if size > CAPS[kind]:
            raise MalformedError(f"{path} has {size} bytes, more than a file of its kind may")
        return _of_config(stream.read(_MAX_CONFIG_BYTES + 1)) if path == _CONFIG else NOTHING
    if _format(path) == "gguf":
        header = gguf.read_header(stream)
        return Facts("gguf", header.architecture, header.context_length, header.kv_bytes_per_token)
    safetensors.read_header(stream, size)
    return Facts("safetensors", None, None, None)


def _check_magic(path: str, kind: FileKind, head: bytes) -> None:
    """Refuse what runs code when it is opened, by how it begins."""
    what = next((what for magic, what in _MAGICS.items() if head.startswith(magic)), None)
    may_be_length = kind is FileKind.WEIGHT and head[8:9] == b"{"  # of a safetensors header
    if head.startswith(_PICKLES) and not may_be_length:
        what = "a pickle"
    if head.startswith(b"GGUF") and kind is not FileKind.WEIGHT:
        what = "a file of weights"
    if what is not None:
        raise MalformedError(f"{path} is {what}, whatever its name says", hint=_HINT)


Look = Callable[[str, FileKind, BinaryIO], Facts]
"""Looks into one file by its path and kind; see ``look``."""


def facts(
    files: Iterable[ModelFile], opened: Callable[[Digest], BinaryIO], look: Look = look
) -> Facts:
    """Look into all files of a model, and return what they say of it.

    Args:
        files: With names and sizes that were checked.
        opened: Opens one for reading.
        look: What looks into each; nodes have another process do that.

    Raises:
        MalformedError: a file is not what its name says.
    """
    found = list(files)
    said = {}
    for file in found:
        with opened(file.digest) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != file.size:
                raise MalformedError(f"{file.path} has {size} bytes, not {file.size}")
            said[file.path] = look(file.path, file.kind, stream)
    first = said[primary(found).path]
    if first.format == "gguf":
        return first
    return replace(said.get(_CONFIG, NOTHING), format=first.format)


def _of_config(data: bytes) -> Facts:
    """Return what ``config.json``, as transformers writes it, says beside safetensors."""
    try:
        found = wire.loads(data, what=_CONFIG) if len(data) <= _MAX_CONFIG_BYTES else {}
    except MalformedError:
        found = {}  # such as one that holds Infinity: engines read it, and nothing is known of it

    def whole(name: str) -> int | None:
        value = found.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if 0 < value < 2**31 else None

    heads, width, layers = (
        whole(name) for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    kv_heads, size = whole("num_key_value_heads") or heads, whole("head_dim")
    if size is None and heads is not None and width is not None:
        size = width // heads or None
    per_token = None
    if layers is not None and kv_heads is not None and size is not None:
        per_token = layers * kv_heads * size * 2 * _F16_BYTES
        per_token = per_token if per_token < wire.MAX_INTEGER else None
    return Facts("", _text(found.get("model_type")), whole("max_position_embeddings"), per_token)


def _text(value: Any) -> str | None:
    return value[:64] if isinstance(value, str) else None


def _format(path: str) -> str:
    return PurePosixPath(path).suffix.lower().removeprefix(".")
