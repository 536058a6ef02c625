"""Runs imports, each in a process of its own, and stops each in front of one call.

Run with the shim preloaded. Reads lines ``STATE BUNDLE NUMBER ERRNO``, where ERRNO is 0 to be
killed in front of call NUMBER, and else what that call and all later ones fail with. Answers each
with one line: ``killed``, ``refused CODE``, or ``ended COUNT`` with the calls made; before it comes
``acknowledged`` once the import was acknowledged.
"""

import ctypes
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

from appliance.errors import ApplianceError
from tests.helpers.clock import ScriptedClock
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED


def import_bundle(state: Path, bundle: Path, number: int, error: int) -> None:
    """Import; in a child of its own, since it may not come back."""
    shim = ctypes.CDLL(None)
    try:
        shim.shim_arm(ctypes.c_long(number), error)
        node = Node.open(state, ScriptedClock(utc=ISSUED))
        node.importer.run(bundle, "a test")
        os.write(1, b"acknowledged\n")
        node.close()
        os.write(1, b"ended %d\n" % shim.shim_count())
    except ApplianceError as found:
        shim.shim_disarm()
        os.write(1, b"refused %d\n" % found.exit_code)
    os._exit(0)


def main() -> None:
    """Answer requests until there are no more."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        state, bundle, number, error = line.split()
        child = os.fork()
        if not child:
            try:
                import_bundle(Path(state), Path(bundle), int(number), int(error))
            except Exception:  # noqa: BLE001 - whatever it is, the test shows it
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            os.write(1, b"killed\n")
        elif status:
            os.write(1, b"failed %d\n" % status)


if __name__ == "__main__":
    main()
