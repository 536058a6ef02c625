"""The tables that the chaos suites print at their end."""

from typing import Any


def told(found: dict[str, Any]) -> str:
    """Return what a suite found, for people."""
    lines = [f"{'struck':<36}{'times':>8}{'in flight':>12}"]
    for kind, times in sorted(found["struck"].items()):
        lines.append(f"{kind:<36}{times:>8}{found['busy'].get(kind, 0):>12}")
    total = sum(found["struck"].values()), sum(found["busy"].values())
    lines.append(f"{'all':<36}{total[0]:>8}{total[1]:>12}")
    lines.append("")
    lines += [
        f"{name}: {_plain(value)}"
        for name, value in found.items()
        if name not in ("struck", "busy", "verdict", "ok")
    ]
    return "\n".join([*lines, *_verdict(found["verdict"])]) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in sorted(value.items())) or "none"
    return str(value)


def _verdict(verdict: dict[str, Any]) -> list[str]:
    lines = ["", f"{'stream':<12}{'at the hub':>12}{'stood for':>12}{'gaps':>8}{'coarse':>8}"]
    for name, count in verdict["streams"].items():
        stood, gaps = count.get("stood for", 0), count.get("gap", 0)
        row = f"{name:<12}{count.get('records', 0):>12}{stood:>12}{gaps:>8}"
        lines.append(f"{row}{count.get('coarse', 0):>8}")
    lines.append("")
    lines.append(
        f"{verdict['lost']} lost, {verdict['doubled']} doubled, {verdict['swapped']} swapped"
    )
    lines += [f"  {finding}" for finding in verdict["findings"]]
    return lines
