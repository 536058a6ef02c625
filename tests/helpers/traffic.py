"""Callers that stream completions without a pause, and know of each one how it ended and when."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_PATIENCE_S = 120


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; ``went_wrong`` is empty when its whole answer came."""

    id: str
    began: float
    ended: float
    went_wrong: str = ""

    def was_in_flight(self, moment: float) -> bool:
        return self.began <= moment <= self.ended


@dataclass(frozen=True, slots=True)
class Gateway:
    """What is asked, and whom."""

    address: tuple[str, int]
    key: str
    model: str
    tokens: int = 12


class Traffic:
    """All requests of some callers, each one strictly once: nobody tries again."""

    def __init__(self, gateway: Gateway, callers: int) -> None:
        self.asked: list[Asked] = []
        self.strikes: list[float] = []
        self._gateway = gateway
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        """Call for as long as the block runs, and then until the last answer is there."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def strike(self) -> None:
        """Note that something is killed now: what is in flight may break."""
        self.strikes.append(time.monotonic())

    def well_since(self, moment: float) -> int:
        """Return how many that began after a moment came to their end."""
        return sum(a.began >= moment and not a.went_wrong for a in self.asked)

    @property
    def lost(self) -> list[Asked]:
        """What failed and was not in flight when something was killed."""
        return [a for a in self.broken if not any(map(a.was_in_flight, self.strikes))]

    @property
    def broken(self) -> list[Asked]:
        """What failed."""
        return [a for a in self.asked if a.went_wrong]

    def _call(self) -> None:
        while not self._over.is_set():
            name = f"r-{next(self._numbers)}"
            began = time.monotonic()
            went_wrong = one(self._gateway, name)
            self.asked.append(Asked(name, began, time.monotonic(), went_wrong))
            if went_wrong:
                time.sleep(0.05)  # a refusal is quick: not ten thousand of them


def one(gateway: Gateway, request_id: str) -> str:
    """Stream one completion on a connection of its own; return what went wrong, or nothing."""
    body = {
        "model": gateway.model,
        "stream": True,
        "max_tokens": gateway.tokens,
        "messages": [{"role": "user", "content": f"Count from one to ten. ({request_id})"}],
    }
    headers = {
        "Authorization": f"Bearer {gateway.key}",
        "Content-Type": "application/json",
        "X-Request-Id": request_id,
    }
    connection = http.client.HTTPConnection(*gateway.address, timeout=_PATIENCE_S)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    if answer.headers["X-Request-Id"] != request_id:
        return f"answered as {answer.headers['X-Request-Id']}"
    whole = answer.status == 200 and text.endswith("data: [DONE]\n\n") and '"error"' not in text
    return "" if whole else f"{answer.status}: {text[-300:]}"
