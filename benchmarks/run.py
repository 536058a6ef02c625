"""Run benchmarks, print a table, write ``build/bench.json``."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Row, noise

ROOT = Path(__file__).parent.parent
SUITES = ("skeleton", "bundle", "kubernetes", "sync")


def main() -> int:
    """Run the suites that are named, or all."""
    chosen = sys.argv[1:] or list(SUITES)
    for name in chosen:
        if name not in SUITES:
            print(f"there is no benchmark {name!r}; there are: {', '.join(SUITES)}")
            return 2
    print(f"noise of this machine: {noise()}")
    rows: list[Row] = []
    for name in chosen:
        rows += importlib.import_module(f"benchmarks.{name}").run()
    _print(rows)
    target = ROOT / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")
    return 0 if all(row.met for row in rows) else 1


def _print(rows: list[Row]) -> None:
    head = ["NAME", "VALUE", "REFERENCE", "RATIO", "TARGET", "MET"]
    lines = [
        [
            row.name,
            f"{row.value:.4g} {row.unit}",
            f"{row.reference}: {row.reference_value:.4g} {row.unit}",
            f"{row.ratio:.3f}",
            row.target,
            "yes" if row.met else "NO",
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    for line in [head, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
