"""Could models fill the disk so far that the kubelet evicts pods? Arithmetic over what is known.

The kubelet evicts when a file system that it watches has less free than a threshold: ``nodefs`` is
the one below its own folder, ``imagefs`` the one of container images. Models that lie on the same
one take from what it counts, and eviction does not know that they matter: it ends pods, those of
engines first of all, and the models stay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from appliance.core.quantity import format_bytes, parse_bytes
from appliance.planner.space import RESERVE_BYTES

KUBELET_DEFAULTS: Mapping[str, str] = {"nodefs.available": "10%", "imagefs.available": "15%"}
"""kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction, "Hard eviction"."""
K3S_DEFAULTS: Mapping[str, str] = {"nodefs.available": "5%", "imagefs.available": "5%"}
"""What k3s writes into its kubelet's configuration (github.com/k3s-io/k3s ``pkg/daemons/agent``).

Its ``evictionMinimumReclaim`` of 10% makes an eviction, once begun, go on until 15% are free.
"""
_MARGIN = 1 << 30


@dataclass(frozen=True, slots=True)
class Watched:
    """The file system that models lie on, as far as the kubelet watches it.

    ``signals`` are its names there: ``nodefs``, ``imagefs``, both, or none.
    """

    total: int
    free: int
    signals: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What filling the store up to what is allowed may lead to.

    ``likely`` is ``None`` when it is not known. ``floor`` is what a Site's ``disk.floor`` should
    be at least; 0 when it need not change.
    """

    likely: bool | None
    message: str
    floor: int = 0


def begins_at(thresholds: Iterable[Mapping[str, str]], watched: Watched) -> int:
    """Return at how many free bytes an eviction begins; 0: never.

    Args:
        thresholds: By signal, such as ``{"nodefs.available": "10%"}``, hard and soft ones.
        watched: The file system.

    Raises:
        ValueError: a threshold is none that we can read.
    """
    found = [0]
    for one in thresholds:
        for signal in watched.signals:
            text = one.get(f"{signal}.available")
            if text is not None:
                found.append(_bytes(str(text), watched.total))
    return max(found)


def outlook(
    watched: Watched | None, begins: int | None, stored: int, budget: int | None, floor: int
) -> Outlook:
    """Say whether models may grow until pods are evicted.

    Args:
        watched: The file system of the store; None when the kubelet's cannot be seen.
        begins: At how many free bytes an eviction begins; None when it is not known.
        stored: What models take now.
        budget: The most that they may take; None: no limit.
        floor: What must stay free, as the Site says; imports stop there.
    """
    if watched is None or begins is None:
        return Outlook(None, "whether models could fill the kubelet's disk is not known")
    if not watched.signals or not begins:
        return Outlook(False, "models lie on a disk whose room the kubelet does not watch")
    at = f"eviction of pods begins at {format_bytes(begins)} free"
    wanted = _whole_gib(begins + _MARGIN)
    advice = f"set disk.floor of the Site to {wanted >> 30}Gi or more"
    if watched.free < begins:
        return Outlook(
            True, f"the disk has {format_bytes(watched.free)} free already; {at}; {advice}", wanted
        )
    room = watched.free - max(floor, RESERVE_BYTES)
    most = max(0, room if budget is None else min(room, budget - stored))
    may = f"models may grow to {format_bytes(stored + most)} of {format_bytes(watched.total)}"
    left = watched.free - most
    if left >= begins:
        return Outlook(False, f"{may}, which leaves {format_bytes(left)}; {at}")
    return Outlook(True, f"{may}, which leaves {format_bytes(left)}; {at}; {advice}", wanted)


def _bytes(text: str, total: int) -> int:
    """Return a threshold in bytes; the kubelet takes a share of the capacity, or a quantity."""
    if text.endswith("%"):
        return int(total * float(text[:-1]) / 100)
    return parse_bytes(text)


def _whole_gib(count: int) -> int:
    return -(-count >> 30) << 30
