"""Step 13: what a weight file says of itself, read by a process that cannot harm the node."""

import json
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from appliance.core.gguf import GgufHeader
from appliance.errors import MalformedError, from_wire

_PACKAGES = str(Path(__file__).parents[2])
_BEGIN = "import sys; sys.path.insert(0, sys.argv[1]); from appliance.bundle import confined; "
_MOST_S = 60
_MOST_ANSWER = 1 << 16


def read_confined(file: BinaryIO) -> GgufHeader:
    """Return what the header of the weight file ``file`` says.

    Raises:
        MalformedError: it is not one, or the parser did not survive it.
    """
    command = [sys.executable, "-I", "-S", "-c", _BEGIN + "confined.main()", _PACKAGES]
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
    return GgufHeader(**answer["header"])
