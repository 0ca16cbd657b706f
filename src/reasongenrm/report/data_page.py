"""The data report as a page: tables and pictures of `data.report.DataReport`, and any further sections as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongenrm.report.charts import bar_chart, histogram
from reasongenrm.report.pages import render
from reasongenrm.report.tables import MISSING, TextTable, percent
from reasongenrm.store import write_json, write_text

_MOST_BARS = 30
_MOST_ROWS = 400
_ALL = "all sources"

Part = tuple[str, Any]
"""What the template shows: ("text" | "alarm" | "heading", text), ("table", TextTable) or ("picture", (title, PNG))."""


def write_report(report: Mapping[str, Any], json_path: Path, html_path: Path) -> None:
    """Write a report (`DataReport.to_dict`, with any further sections) as JSON and as one HTML file, each whole or not.

    The HTML contains its own style and pictures and loads nothing from the network.
    """
    write_text(html_path, page(report))
    write_json(json_path, report)  # last: its presence says that the stage is done


def page(report: Mapping[str, Any]) -> str:
    """Return a data report as one HTML document.

    Keys that `DataReport` itself does not have (reasons, selection, records, …) become sections of their own: a
    mapping of plain values is a table of two columns, a list of mappings or a mapping of mappings a table with a
    column per key; deeper ones get a heading. All text is escaped.
    """
    known = (
        ("total", "Rows", _rows),
        ("first_dropped", "First dropped of each kind", lambda report: [_records(report["first_dropped"])]),
        ("length_histogram", "Balance and length", _balance),
        ("total", "Languages", _languages),
        ("tokens", "Tokens per template", _tokens),
        ("leaks", "Label leaks", _leaks),
        ("contamination", "Contamination", _contamination),
    )
    sections = [
        {"title": title, "parts": list(parts(report))} for key, title, parts in known if key in report
    ]
    shown = {key for key, *_ in known} | {"unit", "sources"}
    sections += [
        {"title": _title(key), "parts": list(_any_value(report[key]))} for key in report if key not in shown
    ]
    return render("data_report.html.jinja", sections=sections)


def _rows(report: Mapping[str, Any]) -> Iterator[Part]:
    total = report["total"]
    yield (
        "text",
        f"Counted: {report['unit']}. In = kept + dropped, for every source: "
        f"{total['in']:,} = {total['kept']:,} + {total['dropped']:,} in all.",
    )
    sources = _sources(report)
    keys = ("in", "kept", "dropped")
    yield _table(("source", *keys), [[name, *(row[key] for key in keys)] for name, row in sources])
    if points := total.get("reference_points"):
        pairs, count = points["pairs"], points["points"]
        yield (
            "text",
            f"{pairs:,} of the kept pairs have reference points, {count:,} in all (the reward rationale).",
        )
    yield "heading", "Dropped"
    drops = [
        (name, stage, reason, count)
        for name, row in sources
        for stage, reasons in row["dropped_by_stage"].items()
        for reason, count in reasons.items()
    ]
    yield _table(("source", "stage", "reason", "rows"), drops)
    bars = {f"{stage}: {reason}": count for name, stage, reason, count in drops if name == _ALL}
    if bars:
        yield _bars(bars, "Rows dropped, by reason", "rows")


def _balance(report: Mapping[str, Any]) -> Iterator[Part]:
    yield (
        "text",
        "Over kept pairs; lengths in characters. A and B count the judge prompts by the right verdict.",
    )
    rows = []
    for name, row in _sources(report):
        placed, length = row["judge_prompts"], row["length"]
        means = [length[f"mean_{side}_characters"] for side in ("chosen", "rejected")]
        longer = [_percent(length[f"share_{side}_longer"]) for side in ("chosen", "rejected")]
        rows.append([name, placed["A"], placed["B"], _percent(placed["share_A"]), *means, *longer])
    headings = "source|A|B|share of A|mean chosen|mean rejected|chosen longer|rejected longer"
    yield _table(headings.split("|"), rows)
    placed = report["total"]["judge_prompts"]
    yield _bars({f"right verdict {letter}": placed[letter] for letter in "AB"}, "Placement", "judge prompts")
    title = "Lengths of chosen and rejected answers"
    bins = report["length_histogram"]
    starts = [row["characters_from"] for row in bins]
    counts = {side: [row[side] for row in bins] for side in ("chosen", "rejected")}
    axis = "characters (two bins to each doubling)"
    yield "picture", (title, histogram(starts, counts, title, axis, logarithmic=True))
    yield "heading", "User turns per kept pair"
    turns = [[name, *item] for name, row in _sources(report) for item in row["user_turns"].items()]
    yield _table(("source", "user turns", "pairs"), turns)


def _languages(report: Mapping[str, Any]) -> Iterator[Part]:
    yield "text", "Of kept pairs, by ISO 639-3 code; und: undetermined (short, without letters, or in doubt)."
    rows = [[name, *item] for name, row in _sources(report) for item in row["languages"].items()]
    yield _table(("source", "language", "pairs"), rows)
    languages = report["total"]["languages"]
    if languages:
        by_count = dict(sorted(languages.items(), key=lambda item: (-item[1], item[0])))
        yield _bars(by_count, "Languages of kept pairs", "pairs")


def _tokens(report: Mapping[str, Any]) -> Iterator[Part]:
    yield (
        "text",
        "Judge prompts as the student reads them, including those dropped because they are too long.",
    )
    hidden = ("histogram", "tokens_per_bin")
    rows = [
        {"template": name} | {key: value for key, value in row.items() if key not in hidden}
        for name, row in report["tokens"].items()
    ]
    yield _records(rows)
    for name, row in report["tokens"].items():
        bins = dict(row["histogram"])
        starts = list(range(0, max(bins, default=0) + 1, row["tokens_per_bin"]))
        title = f"Prompt lengths, template {name}"
        marks = {"limit": row["limit"]} if row["limit"] is not None else None
        counts = {"prompts": [bins.get(start, 0) for start in starts]}
        yield "picture", (title, histogram(starts, counts, title, "tokens", marks=marks))


def _leaks(report: Mapping[str, Any]) -> Iterator[Part]:
    leaks = report["leaks"]
    yield "text", f"Does a surface feature alone predict the label? {_title(leaks['rule'])}."
    suspects, features = leaks["leaks"], leaks["features"]
    if suspects:
        scopes = len({(row["scope"], row["feature"]) for row in suspects})
        yield "alarm", f"{scopes} suspected label leak(s):"
        yield _records(suspects)
    else:
        yield "text", "No label leak was found."
    if features:
        yield "heading", "Features of the answers, over all pairs"
        yield _records(features)
        by_accuracy = sorted(features, key=lambda row: -row["accuracy_alone"])
        bars = {row["feature"]: row["accuracy_alone"] for row in by_accuracy}
        yield _bars(bars, "Accuracy of a feature alone (ties count half)", "accuracy", marks={"chance": 0.5})
    if leaks["placement"]:
        yield "heading", "Features of the conversation against the winner's letter"
        yield _records(leaks["placement"])


def _contamination(report: Mapping[str, Any]) -> Iterator[Part]:
    yield (
        "text",
        "Training pairs that share runs of n words with a benchmark; all matches are in contamination.jsonl.",
    )
    yield from _any_value(report["contamination"])


def _any_value(value: Any) -> Iterator[Part]:
    """Show any JSON value: plain values as a table, tables as tables, and what is deeper under headings."""
    if not isinstance(value, Mapping):
        yield _records(value) if _is_records(value) else ("text", _cell(value))
        return
    if not value:
        yield "text", "None."
    nested = {key: item for key, item in value.items() if _is_nested(item)}
    plain = [(_words(str(key)), item) for key, item in value.items() if key not in nested]
    if plain:
        yield _table(("", ""), plain)
    for key, item in nested.items():
        yield "heading", _title(str(key))
        rows = list(item.values()) if isinstance(item, Mapping) else []
        if _is_records(rows) and not any(_is_nested(cell) for row in rows for cell in row.values()):
            yield _records([{"": name, **row} for name, row in item.items()])
        else:
            yield from _any_value(item)


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping) or _is_records(value)


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _records(rows: Sequence[Mapping[str, Any]]) -> Part:
    """Return a table of mappings: one column per key, in the order in which the keys first occur."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return _table([_words(key) for key in keys], [[row.get(key) for key in keys] for row in rows])


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> Part:
    cells = [tuple(map(_cell, row)) for row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        rest = f"… and {len(rows) - _MOST_ROWS:,} more rows: see the JSON beside this page"
        cells.append((rest, *[""] * (len(headings) - 1)))
    return "table", TextTable(tuple(headings), tuple(cells))


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(item)}" for key, item in value.items())
    return str(value) or "(empty)"


def _sources(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*report["sources"].items(), (_ALL, report["total"])]


def _bars(
    values: Mapping[str, float], title: str, axis: str, *, marks: Mapping[str, float] | None = None
) -> Part:
    first = dict(list(values.items())[:_MOST_BARS])
    return "picture", (title, bar_chart(first, title, axis, marks=marks))


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{percent(share)} %"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _title(key: str) -> str:
    words = _words(key)
    return words[:1].upper() + words[1:]
