"""Load and faults: what a crowd of bad callers, faulty servers, a bad disk, a wrong clock and kills do to the work.

    python bench/soak.py [--part serve --part fleet --part stages] [--seconds 45] [--requests 10000] [--kills 50] [--minutes 6]

Everything runs on this machine, on loopback; the parts together take about ten minutes on two cores.

- `serve`: the judge's server, asked by 40 good callers alone, and then by the same 40 beside 24 slow, broken and hostile
  ones. Its engine is a stand-in that waits 20 ms per batch, so that only the server is measured.
- `fleet`: a client of four OpenAI-compatible servers, each of which answers three in ten requests with a fault.
- `stages`: the demo's recipe, made small. Stage 1 on a full disk, on a read-only folder and under a clock that jumps; all
  stages under SIGKILL at random moments. The files are compared with those of an undisturbed run. `--minutes` bounds the
  kills. It needs `make demo` or `reasongenrm toy build`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]  # servers with faults: tests/support

PARTS = ("serve", "fleet", "stages")


def table(names: list[str], rows: list[list[object]]) -> str:
    """Return a Markdown table."""
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    """Print a table for each part, and exit with 1 if anything was wrong or lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, default=[])
    parser.add_argument("--seconds", type=float, default=45, help="of each of the two loads of the server")
    parser.add_argument("--requests", type=int, default=10_000, help="to the fleet")
    parser.add_argument("--kills", type=int, default=50, help="of all stages together")
    parser.add_argument("--minutes", type=float, default=6, help="time for the kills")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(machine(), flush=True)
    good = True
    for part in options.part or PARTS:
        if part == "serve":
            from soak_serve import soak
        elif part == "fleet":
            from soak_fleet import soak
        else:
            from soak_stages import soak
        names, rows, passed = soak(options)
        print(f"\n## {part}\n\n{table(names, rows)}", flush=True)
        good = good and passed
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
