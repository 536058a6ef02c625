"""How an engine that is the first process of its container ends: once its requests are answered.

The process driver drains an engine before it signals it; the kubelet signals first. It has taken
the engine out of its Service by then, so that what is there is all that there will be. Standard
library only: images hold this file and little else.
"""

import http.client
import os
import re
import signal
import threading
import time

DRAIN_S = "EDGE_DRAIN_S"
"""The environment variable with the seconds that running requests have, at most."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BUSY = re.compile(rb"^llamacpp:requests_(?:processing|deferred) ([0-9.e+]+)$", re.MULTILINE)
_LOOK_S = 0.1
_ANSWER_S = 2.0
_IN_A_ROW = 2
"""How often nothing must be found: a request just read from its connection is not counted yet."""


def end_by_signal(port: int) -> None:
    """Have SIGTERM and SIGINT end this process when it has nothing left to answer.

    Call it before there are other threads: they inherit that the signals are blocked, and a
    blocked one also reaches the first process of a container. A thread of its own waits for them,
    so that one that comes while weights are loaded is heard at once.
    """
    most_s = float(os.environ.get(DRAIN_S) or 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_end, args=(port, most_s), name="end", daemon=True).start()


def _end(port: int, most_s: float) -> None:
    signal.sigwait(_SIGNALS)
    drain(port, most_s)
    os._exit(0)


def drain(port: int, most_s: float) -> bool:
    """Wait until nothing is left to answer, ``most_s`` at most; return whether that is so."""
    until = time.monotonic() + most_s
    idle = 0
    while idle < _IN_A_ROW:
        left = until - time.monotonic()
        if left <= 0:
            return False
        idle = idle + 1 if not is_busy(port, min(_ANSWER_S, left)) else 0
        time.sleep(min(_LOOK_S, left))
    return True


def is_busy(port: int, timeout_s: float = _ANSWER_S) -> bool:
    """Whether the engine on this machine works on requests, or holds any.

    One that listens and says nothing in time is: it answers between two batches. One that does
    not listen yet, still loads or keeps no count is not.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        found = _BUSY.findall(answer.read()) if answer.status == http.HTTPStatus.OK else []
    except TimeoutError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return any(float(number) for number in found)
