"""The data report as a page: its tables and pictures, and what is shown of sections that others counted."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from reasongenrm.report.charts import bar_chart, histogram
from reasongenrm.store import write_json, write_text

_TEMPLATE = "data_report.html.jinja"


_MOST_BARS = 30


_MOST_ROWS = 400


Part = dict[str, Any]
"""What the template shows one after the other: `kind` is text, heading, table or picture."""


def page(report: Mapping[str, Any]) -> str:
    """Return a data report (see `report.DataReport.to_dict`) as one HTML document.

    Keys that the report itself does not have (reasons, selection, records, …) become sections of their own: a
    mapping of plain values is a table of two columns, a list of mappings or a mapping of mappings a table with a
    column per key; deeper ones get a heading. All text is escaped.
    """
    from jinja2 import Environment, StrictUndefined

    known = (
        ("total", "Rows", _rows),
        ("first_dropped", "First dropped of each kind", _first_dropped),
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
        {"title": _title(key), "parts": list(_generic(report[key]))} for key in report if key not in shown
    ]
    template = resources.files("reasongenrm.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    html = environment.from_string(template).render(sections=sections)
    # Half of a surrogate pair, which JSON can hold, becomes a question mark: UTF-8 cannot hold it.
    return html.encode("utf-8", "replace").decode("utf-8") + "\n"


def _rows(report: Mapping[str, Any]) -> Iterator[Part]:
    total = report["total"]
    yield _text(
        f"Counted: {report['unit']}. In = kept + dropped, for every source: "
        f"{total['in']:,} = {total['kept']:,} + {total['dropped']:,} in all."
    )
    sources = _sources(report)
    yield _table(
        ["source", "in", "kept", "dropped"],
        [[name, row["in"], row["kept"], row["dropped"]] for name, row in sources],
    )
    yield _heading("Dropped")
    drops = [
        [name, stage, reason, count]
        for name, row in sources
        for stage, reasons in row["dropped_by_stage"].items()
        for reason, count in reasons.items()
    ]
    yield _table(["source", "stage", "reason", "rows"], drops)
    bars = {
        f"{stage}: {reason}": count
        for stage, reasons in total["dropped_by_stage"].items()
        for reason, count in reasons.items()
    }
    if bars:
        yield _bars(bars, "Rows dropped, by reason", "rows")


def _first_dropped(report: Mapping[str, Any]) -> Iterator[Part]:
    keys = ("stage", "reason", "location", "detail")
    rows = [[first[key] for key in keys] for first in report["first_dropped"]]
    yield _table(["stage", "reason", "location", "what and how to mend"], rows)


def _balance(report: Mapping[str, Any]) -> Iterator[Part]:
    yield _text(
        "Over kept pairs; lengths in characters. A and B count the judge prompts whose winner stands there."
    )
    rows = []
    for name, row in _sources(report):
        placed, length = row["judge_prompts"], row["length"]
        means = [length[f"mean_{side}_characters"] for side in ("chosen", "rejected")]
        longer = [_percent(length[f"share_{side}_longer"]) for side in ("chosen", "rejected")]
        rows.append([name, placed["A"], placed["B"], _percent(placed["share_A"]), *means, *longer])
    yield _table(
        [
            *("source", "A", "B", "share of A", "mean chosen", "mean rejected"),
            *("chosen longer", "rejected longer"),
        ],
        rows,
    )
    placed = report["total"]["judge_prompts"]
    yield _bars(
        {"winner stands as A": placed["A"], "winner stands as B": placed["B"]},
        "Placement",
        "judge prompts",
    )
    bins = report["length_histogram"]
    yield _picture(
        "Lengths of chosen and rejected answers",
        histogram(
            [row["characters_from"] for row in bins],
            {side: [row[side] for row in bins] for side in ("chosen", "rejected")},
            "Lengths of chosen and rejected answers",
            "characters (two bins to each doubling)",
            logarithmic=True,
        ),
    )
    yield _heading("User turns per kept pair")
    yield _table(
        ["source", "user turns", "pairs"],
        [
            [name, turns, count]
            for name, row in _sources(report)
            for turns, count in row["user_turns"].items()
        ],
    )


def _languages(report: Mapping[str, Any]) -> Iterator[Part]:
    languages = report["total"]["languages"]
    yield _text("Of kept pairs, by ISO 639-3 code; und: undetermined (short, without letters, or in doubt).")
    rows = [[name, code, count] for name, row in _sources(report) for code, count in row["languages"].items()]
    yield _table(["source", "language", "pairs"], rows)
    if languages:
        ordered = dict(sorted(languages.items(), key=lambda item: (-item[1], item[0])))
        yield _bars(ordered, "Languages of kept pairs", "pairs")


def _tokens(report: Mapping[str, Any]) -> Iterator[Part]:
    yield _text("Judge prompts as the student reads them, the over-long ones that were dropped included.")
    templates = report["tokens"]
    hidden = ("histogram", "tokens_per_bin")
    columns = list(dict.fromkeys(key for row in templates.values() for key in row if key not in hidden))
    yield _table(
        ["template", *map(_words, columns)],
        [[name, *(row[column] for column in columns)] for name, row in templates.items()],
    )
    for name, row in templates.items():
        bins = dict(row["histogram"])
        starts = list(range(0, max(bins, default=0) + 1, row["tokens_per_bin"]))
        title = f"Prompt lengths, template {name}"
        marks = {"limit": row["limit"]} if row["limit"] is not None else None
        counts = {"prompts": [bins.get(start, 0) for start in starts]}
        yield _picture(title, histogram(starts, counts, title, "tokens", marks=marks))


def _leaks(report: Mapping[str, Any]) -> Iterator[Part]:
    leaks = report["leaks"]
    yield _text(f"Does a surface feature alone predict the label? {_sentence(leaks['rule'])}.")
    found = leaks["leaks"]
    if found:
        scopes = len({(row["scope"], row["feature"]) for row in found})
        yield _text(f"{scopes} suspected label leak(s):", strong=True)
        yield _records(found)
    else:
        yield _text("No label leak was found.")
    if leaks["features"]:
        yield _heading("Features of the answers, over all pairs")
        yield _records(leaks["features"])
        shown = sorted(leaks["features"], key=lambda row: -row["accuracy_alone"])
        bars = {row["feature"]: row["accuracy_alone"] for row in shown}
        yield _bars(bars, "Accuracy of a feature alone (ties count half)", "accuracy", marks={"chance": 0.5})
    if leaks["placement"]:
        yield _heading("Features of the conversation against the winner's letter")
        yield _records(leaks["placement"])


def _contamination(report: Mapping[str, Any]) -> Iterator[Part]:
    contamination = dict(report["contamination"])
    yield _text(
        "Training pairs that share runs of n words with a benchmark; every match is in contamination.jsonl."
    )
    yield _heading("Benchmarks read")
    yield _records(contamination.pop("benchmarks", []))
    yield _heading("Matches")
    yield _records(contamination.pop("matches", []))
    if contamination:
        yield from _generic(contamination)


def _generic(value: Any) -> Iterator[Part]:
    """Show any JSON value: plain values as a table, tables as tables, and what lies deeper under headings."""
    if not isinstance(value, Mapping):
        yield _records(value) if _is_records(value) else _text(_cell(value)["text"])
        return
    if not value:
        yield _text("None.")
    plain = [[_words(str(key)), item] for key, item in value.items() if not _nested(item)]
    if plain:
        yield _table(["", ""], plain)
    for key, item in value.items():
        if not _nested(item):
            continue
        yield _heading(_title(str(key)))
        if isinstance(item, Mapping) and item and all(isinstance(row, Mapping) for row in item.values()):
            flat = not any(_nested(cell) for row in item.values() for cell in row.values())
            if flat:
                yield _records([{"": name, **row} for name, row in item.items()])
                continue
        yield from _generic(item)


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping) or _is_records(value)


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _records(rows: Sequence[Mapping[str, Any]]) -> Part:
    """Return a table of mappings: one column per key, in the order in which the keys are met."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return _table([_words(key) for key in keys], [[row.get(key) for key in keys] for row in rows])


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> Part:
    cells = [[_cell(value) for value in row] for row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        rest = f"… and {len(rows) - _MOST_ROWS:,} more rows: see the JSON beside this page"
        cells.append([_cell(rest), *(_cell("") for _ in headings[1:])])
    return {"kind": "table", "headings": list(headings), "rows": cells}


def _cell(value: Any) -> dict[str, Any]:
    if value is None:
        return {"text": "–", "numeric": False}
    if isinstance(value, bool):
        return {"text": "yes" if value else "no", "numeric": False}
    if isinstance(value, int):
        return {"text": f"{value:,}", "numeric": True}
    if isinstance(value, float):
        return {"text": f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}", "numeric": True}
    if isinstance(value, list | tuple):
        return {"text": ", ".join(_cell(item)["text"] for item in value), "numeric": False}
    if isinstance(value, Mapping):
        text = ", ".join(f"{key}: {_cell(item)['text']}" for key, item in value.items())
        return {"text": text, "numeric": False}
    text = str(value) or "(empty)"
    return {"text": text, "numeric": text[:1].isdigit() and text.endswith("%")}


def _sources(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*report["sources"].items(), ("all sources", report["total"])]


def _text(text: str, *, strong: bool = False) -> Part:
    return {"kind": "text", "text": text, "strong": strong}


def _heading(text: str) -> Part:
    return {"kind": "heading", "text": text}


def _bars(
    values: Mapping[str, float], title: str, axis: str, *, marks: Mapping[str, float] | None = None
) -> Part:
    shown = dict(list(values.items())[:_MOST_BARS])
    return _picture(title, bar_chart(shown, title, axis, marks=marks))


def _picture(title: str, png: bytes) -> Part:
    return {"kind": "picture", "title": title, "png": base64.b64encode(png).decode("ascii")}


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _title(key: str) -> str:
    return _sentence(_words(key))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def write_report(report: Mapping[str, Any], json_path: Path, html_path: Path) -> None:
    """Write a report (`DataReport.to_dict`, with any further sections) as JSON and as one HTML file, each whole or not.

    The HTML holds its own style and pictures and asks no network for anything.
    """
    write_text(html_path, page(report))
    write_json(json_path, report)  # last: its presence says that the stage is done
