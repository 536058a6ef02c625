"""PURE: whether a controller that was just started is fit to stay.

What is compared is what two controllers say of one node: the one before the switch, and the one
that is tried. An engine counts as spared only if the very same process serves on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Seen:
    """What a controller says of itself; ``ready`` are the engines that serve, with their pids.

    ``epoch`` was born with the ledger; ``passes`` counts the looks at the world that were finished.
    """

    version: str
    node: str
    epoch: str
    passes: int
    ready: Mapping[str, int] = field(default_factory=dict)
    pids: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, status: Mapping[str, Any]) -> "Seen | None":
        """Return what a status says; None when it is not one of a controller that runs."""
        try:
            engines = [e for e in status["engines"] if isinstance(e["pid"], int)]
            pids = {str(e["id"]): int(e["pid"]) for e in engines}
            ready = {str(e["id"]): int(e["pid"]) for e in engines if e["phase"] == "ready"}
            version, node, epoch = (str(status[name]) for name in ("version", "node", "epoch"))
            return cls(version, node, epoch, int(status.get("passes", 0)), ready, pids)
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``wait`` says what is not there yet, ``wrong`` what waiting cannot cure; both empty: fit."""

    wait: str = ""
    wrong: str = ""

    @property
    def is_fit(self) -> bool:
        """Whether nothing is left to ask for."""
        return not self.wait and not self.wrong


def judge(before: Seen | None, now: Seen | None, version: str, *, restarts: bool) -> Verdict:
    """Compare what is seen now with what was seen before.

    Args:
        before: What the old controller said last; None if it did not answer, and then nothing is
            known of the engines that ran.
        now: What the new one says; None while it does not answer.
        version: What it must call itself.
        restarts: Engines may be started anew, so they must serve, but not as the same processes.
    """
    if now is None:
        return Verdict(wait="it does not answer")
    if now.version != version:
        return Verdict(wrong=f"it calls itself {now.version}, not {version}")
    if before is not None and (now.node, now.epoch) != (before.node, before.epoch):
        return Verdict(wrong="it opened another node or another ledger")
    if not now.passes:
        return Verdict(wait="it has not looked at the world yet")
    return _engines({} if before is None else before.ready, now, restarts=restarts)


def _engines(before: Mapping[str, int], now: Seen, *, restarts: bool) -> Verdict:
    for name, pid in sorted(before.items()):
        if not restarts and now.pids.get(name) != pid:
            return Verdict(wrong=f"the engine {name}, pid {pid}, was not taken over")
        if name not in now.ready:
            return Verdict(wait=f"the engine {name} is not ready")
    return Verdict()
