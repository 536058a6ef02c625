"""Step 13: what a model's file says of itself, read by a process that cannot harm the node."""

import json
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from appliance.bundle.format import content
from appliance.bundle.format.content import Facts
from appliance.core.model import FileKind
from appliance.errors import MalformedError, from_wire

_PACKAGES = str(Path(__file__).parents[3])
_BEGIN = "import sys; sys.path.insert(0, sys.argv[1]); from appliance.bundle.take import confined; "
_MOST_S = 60
_MOST_ANSWER = 1 << 16


def look_confined(path: str, kind: FileKind, file: BinaryIO) -> Facts:
    """Look into a file as ``content.look`` does; what must be parsed is parsed elsewhere.

    Raises:
        MalformedError: it is not what its name says, or the parser did not survive it.
    """
    if not content.is_parsed(path, kind):
        return content.look(path, kind, file)
    command = [sys.executable, "-I", "-S", "-c", _BEGIN + "confined.main()"]
    command += [_PACKAGES, path, kind]
    try:
        done = subprocess.run(
            command, stdin=file, capture_output=True, check=False, timeout=_MOST_S, env={}, cwd="/"
        )
    except subprocess.TimeoutExpired as error:
        raise MalformedError("a weight file's header takes for ever to read") from error
    try:
        answer = json.loads(done.stdout[:_MOST_ANSWER])
    except ValueError as error:
        raise MalformedError(
            f"reading a weight file's header ended its reader ({done.returncode})",
            hint="report it: the file is damaged, or was made to harm",
        ) from error
    if "error" in answer:
        raise from_wire(answer["error"])
    return Facts(**answer["facts"])
