"""Step 13: what a model's file says of itself, read by a process that cannot harm the node."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from appliance.bundle.format import content
from appliance.bundle.format.content import Facts
from appliance.bundle.take.confined import MOST_ANSWER_BYTES
from appliance.core.model import FileKind
from appliance.core.plain import plain
from appliance.errors import MalformedError

_PACKAGES = str(Path(__file__).parents[3])
_BEGIN = "import sys; sys.path.insert(0, sys.argv[1]); from appliance.bundle.take import confined; "
_MOST_S = 60
_MOST_TEXT = 300


def look_confined(path: str, kind: FileKind, file: BinaryIO) -> Facts:
    """Look into a file as ``content.look`` does; what must be parsed is parsed elsewhere.

    Raises:
        MalformedError: it is not what its name says, or the parser did not survive it.
    """
    if not content.is_parsed(path, kind):
        return content.look(path, kind, file)
    command = [sys.executable, "-I", "-S", "-c", _BEGIN + "confined.main()"]
    command += [_PACKAGES, path, kind]
    with os.fdopen(os.memfd_create("answer"), "rb") as said:
        try:
            done = subprocess.run(
                command, stdin=file, stdout=said, stderr=subprocess.DEVNULL, check=False,
                timeout=_MOST_S, env={}, cwd="/",
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise MalformedError("a weight file's header takes for ever to read") from error
        answer = os.pread(said.fileno(), MOST_ANSWER_BYTES, 0)
    try:
        return _facts(json.loads(answer))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError(
            f"reading a weight file's header ended its reader ({done.returncode})",
            hint="report it: the file is damaged, or was made to harm",
        ) from error


def _facts(answer: Any) -> Facts:
    """Return what a reader answers, which may not be itself any more."""
    if "error" in answer:
        what, hint = (answer["error"][name] for name in ("what", "hint"))
        raise MalformedError(plain(what, _MOST_TEXT), hint=hint and plain(hint, _MOST_TEXT))
    found = Facts(**answer["facts"])
    texts = (found.format, found.architecture or "")
    numbers = (found.context_max or 0, found.kv_bytes_per_token or 0)
    if any(type(text) is not str for text in texts) or any(type(n) is not int for n in numbers):
        raise TypeError
    return found
