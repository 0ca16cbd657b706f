"""Print line and branch coverage per room, from `.coverage` in this folder."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path, PurePath

import coverage
from rich.console import Console
from rich.table import Table

COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def share(covered: int, total: int) -> str:
    return f"{100 * covered / total:.1f}" if total else "-"


def main() -> None:
    data = coverage.Coverage()
    data.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        data.json_report(outfile=str(path))
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    rooms: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(COUNTS))
    for name, file in files.items():
        parts = PurePath(name).parts
        inside = parts[parts.index("reasongenrm") + 1 :]
        room = inside[0] + "/" if len(inside) > 1 else "floor files"
        for room_name in (room, "all"):
            rooms[room_name] = [a + file["summary"][b] for a, b in zip(rooms[room_name], COUNTS, strict=True)]
    table = Table("room", "lines", "lines %", "branches", "branches %")
    for room in sorted(rooms, key=lambda name: (name == "all", name)):
        lines, covered_lines, branches, covered_branches = rooms[room]
        table.add_row(
            room, str(lines), share(covered_lines, lines), str(branches), share(covered_branches, branches)
        )
    Console(width=80).print(table)


if __name__ == "__main__":
    main()
