"""One line per worker of a run: what it did, and what it waited for."""

from __future__ import annotations

from pathlib import Path

from reasongenrm.report.tables import TextTable
from reasongenrm.store import read_json

HEADINGS = ("task", "worker", "machine", "blocks", "busy, s", "waiting, s", "loading, s", "busy", "replaced")


def workers_table(run_folder: Path) -> TextTable:
    """Return the table of `logs/workers.json`, which a stage that is running rewrites every two seconds.

    Raises:
        DataError: the run has had no workers.
    """
    rows = []
    for task, workers in read_json(run_folder / "logs" / "workers.json").items():
        for number, times in enumerate(workers):
            between = times["busy"] + times["waiting"]
            share = f"{100 * times['busy'] / between:.0f} %" if between else "–"
            seconds = (f"{times[name]:.1f}" for name in ("busy", "waiting", "loading"))
            blocks, deaths = str(times["blocks"]), str(times["deaths"])
            rows.append((task, str(number), times["node"][:8], blocks, *seconds, share, deaths))
    return TextTable(HEADINGS, tuple(rows), text_columns=3, title=f"{run_folder.name}: workers")
