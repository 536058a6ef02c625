"""Delays between tries."""

import random
from collections.abc import Iterator


def growing(first_s: float, most_s: float) -> Iterator[float]:
    """Yield delays that double from ``first_s`` to ``most_s`` and stay there."""
    delay = first_s
    while True:
        yield min(delay, most_s)
        delay = min(delay * 2, most_s)


def full_jitter(first_s: float, most_s: float) -> Iterator[float]:
    """Yield random delays below a bound that doubles, so that many nodes do not knock at once.

    Source: "Exponential Backoff and Jitter", the variant called full jitter.
    """
    for bound in growing(first_s, most_s):
        yield random.uniform(bound / 10, bound)  # noqa: S311 - spreads load, guards nothing
