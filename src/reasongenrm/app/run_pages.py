"""HTML of the tab Browse: tables, curves, and rows with reasons; every text of a run is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from reasongenrm.app.cards import turns_html
from reasongenrm.app.notices import notice, text_html
from reasongenrm.app.runs import REPORT, inside, stages_done

if TYPE_CHECKING:
    from reasongenrm.report.comparison import RunsComparison
    from reasongenrm.report.run_files import RunFiles
    from reasongenrm.report.tables import TextTable

EXCERPT = 140
"""Characters of a prompt in the line of a closed row."""


def head_html(folder: Path) -> str:
    """Return a run's name, its stages, and the link to its report."""
    stages = ", ".join(stages_done(folder)) or "none"
    parts = [f"<strong>{text_html(folder.name)}</strong> – stages with a manifest: {stages}."]
    if inside(folder, REPORT):
        link = f"runs/{quote(folder.name, safe='')}/{REPORT}"
        parts.append(f'<a href="{link}" download>Save the report</a> (one file, opens without this page)')
    else:
        parts.append(
            "It has no report.html yet: stage 3, or <code>reasongenrm report RUN</code>, writes one."
        )
    return f'<p class="run">{" ".join(parts)}</p>'


def scores_html(run: RunFiles) -> str:
    """Return the tables of all benchmarks of a run."""
    from reasongenrm.report.run_table import facts, metric_lines, protocol_table, run_table

    parts = [] if run.benchmarks else [notice("no benchmark was judged in this run")]
    for benchmark in run.benchmarks:
        rows = []
        for group, lines in groupby(metric_lines(benchmark), lambda line: line.group):
            rows.append(_group_row(group, len(benchmark.models) + 1))
            rows += [_table_row((line.label, *line.cells), 1) for line in lines]
        parts += [
            f"<h3>{text_html(benchmark.name)}</h3><p>{text_html(facts(benchmark))}</p>",
            _table(("", *benchmark.models), rows, 1),
            _notes(run_table(benchmark).notes),
        ]
        protocols = protocol_table(benchmark)
        if protocols.rows:
            inner = text_table_html(protocols)
            parts.append(f"<details><summary>Protocols of the papers</summary>{inner}</details>")
    return f'<div class="browse">{"".join(parts)}</div>'


def training_html(folder: Path) -> str:
    """Return the steps of a run's training with their scores, its alarms, and its curves; of a step that runs, those so far.

    Raises:
        DataError: a file is broken.
    """
    from reasongenrm.report.run_files import read_scores
    from reasongenrm.report.training_steps import read_steps, speed_table, step_table

    benchmarks = read_scores(folder).benchmarks if (folder / "scores.json").exists() else ()
    steps = list(read_steps(folder, []).values())
    parts = [notice(f"{step.model}: {alarm}", "error") for step in steps for alarm in step.alarms]
    if steps:
        parts.append(text_table_html(step_table(steps, benchmarks)))
    if logged := [step for step in steps if step.logged]:
        parts.append(text_table_html(speed_table(logged)))
    pictures = "".join(f'<img loading="lazy" alt="{text_html(t)}" src="{s}">' for t, s in _curves(folder))
    parts.append(f'<div class="curves">{pictures}</div>' if pictures else "")
    body = "".join(parts) or notice("nothing was trained in this run yet")
    return f'<div class="browse">{body}</div>'


def _curves(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the title and the source of every picture of a training."""
    from reasongenrm.report.charts import training_curves
    from reasongenrm.report.pages import png_source
    from reasongenrm.report.training_steps import MetricRow, read_lines

    for place in sorted(path for path in folder.glob("judges/*") if path.is_dir()):
        model = place.name.removesuffix(".partial")
        title = f"{model}: {'training so far' if place.name != model else 'training'}"
        name = f"judges/{place.name}"
        if (metrics := inside(folder, f"{name}/metrics.jsonl")) and not inside(folder, f"{name}/curves.png"):
            rows = list(read_lines(metrics, MetricRow))
            yield title, png_source(training_curves(rows, title))
            continue
        files = (inside(folder, f"{name}/{file}") for file in ("curves.png", "loss.png"))
        if picture := next(filter(None, files), None):
            yield title, png_source(picture.read_bytes())
    if picture := inside(folder, "scalar/loss.png"):
        yield "scalar head: training loss", png_source(picture.read_bytes())


def pairs_html(values: Mapping[str, Any], numbers: Sequence[int]) -> str:
    """Return comparisons that open to prompt, answers and verdicts.

    Args:
        values: from `report.explorer.payload`, of these comparisons alone.
        numbers: the number of each comparison.
    """
    rows, models = values["rows"], values["models"]
    pairs = zip(numbers, values["pairs"], strict=True)
    body = "".join(_pair(number, pair, rows[pair["row"]], models) for number, pair in pairs)
    return f'<div class="browse rows">{body}</div>'


def _pair(number: int, pair: Mapping[str, Any], row: Mapping[str, Any], models: Sequence[str]) -> str:
    outcomes = [result["outcome"] for result in pair["results"]]
    words = " → ".join(outcomes) if len(set(outcomes)) > 1 else outcomes[0]
    last = " ".join(row["turns"][-1][1].split()) if row["turns"] else ""
    excerpt = last if len(last) <= EXCERPT else f"{last[:EXCERPT]}…"
    head = (
        f'<span class="number">{number}</span> <span class="outcome {outcomes[-1]}">{text_html(words)}</span> '
        f'<span class="subset">{text_html(row["subset"])}</span> <bdi>{text_html(excerpt) or "(empty)"}</bdi>'
    )
    turns = turns_html([{"role": role, "content": text} for role, text in row["turns"]])
    answers = "".join(
        _card(
            f"{side} answer: {row['lengths'][pair[side]]:,} characters", row["answers"][pair[side]], "(empty)"
        )
        for side in ("right", "wrong")
    )
    verdicts = "".join(
        _verdicts(name, result, rated, pair)
        for name, result, rated in zip(models, pair["results"], row["rated"], strict=True)
    )
    foot = f"<p>comparison {text_html(pair['id'])} of row {text_html(row['id'])}</p>"
    body = f'{turns}<div class="answers">{answers}</div>{verdicts}{foot}'
    return f'<details class="pair"><summary>{head}</summary>{body}</details>'


def _verdicts(
    name: str,
    result: Mapping[str, Any],
    rated: Sequence[Mapping[str, Any]] | None,
    pair: Mapping[str, Any],
) -> str:
    """Return what one model said of a comparison."""
    title = f"{name}: {result['outcome']}"
    if result["p"] is not None:
        title += f", P(right answer) {result['p']:.2f}"
    cards = []
    if result["scores"] is not None:
        right, wrong = result["scores"]
        cards.append(_card("scores", f"right answer {right:.5g}, wrong answer {wrong:.5g}", ""))
    for one in result["verdicts"]:
        # A reason names the answers by the letters of its own order, in which they may be swapped.
        letters = ("right", "wrong") if one["order"] == "AB" else ("wrong", "right")
        facts = [f"order {one['order']}: A is the {letters[0]} answer, B the {letters[1]} one"]
        facts.append(f"verdict {one['winner'] or 'none'}: {one['outcome']}")
        facts += [f"P(A) {one['a']:.2f}"] if one["a"] is not None else []
        cards.append(_card(" · ".join(facts + _sample_facts(one)), one["reason"], "(no reason)"))
    for side in ("right", "wrong") if rated else ():
        one = rated[pair[side]] if rated else {}
        value = one["outcome"] if one["rating"] is None else f"{one['rating']:.3g} of 10"
        cards.append(
            _card(" · ".join([f"{side} answer: {value}", *_sample_facts(one)]), one["reason"], "(no reason)")
        )
    return f'<h4>{text_html(title)}</h4><div class="answers">{"".join(cards)}</div>'


def _sample_facts(one: Mapping[str, Any]) -> list[str]:
    return [f"{one['tokens']:,} tokens", *["rescued"] * one["rescued"]]


def _card(head: str, text: str, empty: str) -> str:
    return (
        f'<div class="answer"><div class="head">{text_html(head)}</div>'
        f'<div class="text" dir="auto">{text_html(text) or empty}</div></div>'
    )


def comparison_html(comparison: RunsComparison) -> str:
    """Return the tables of a comparison, and the settings in which the runs differ."""
    from reasongenrm.report.compare import benchmark_tables, setting_differences
    from reasongenrm.report.tables import TextTable

    parts = [text_table_html(table) for table, _ in benchmark_tables(comparison.comparisons)]
    parts.append(_notes(comparison.notes))
    (first, before), *others = comparison.manifests.items()
    for name, after in others:
        rows = tuple(tuple(one.values()) for one in setting_differences(before, after))
        table = TextTable(("setting", first, name), rows, text_columns=3)
        inner = f"<details><summary>{len(rows)} settings differ</summary>{text_table_html(table)}</details>"
        parts.append(inner if rows else "<p>The manifests of the runs show no difference.</p>")
    return f'<div class="browse">{"".join(parts)}</div>'


def text_table_html(table: TextTable) -> str:
    """Return a table with its title and notes; it scrolls sideways where the page is narrow."""
    title = f"<h3>{text_html(table.title)}</h3>" if table.title else ""
    rows = [_table_row(row, table.text_columns) for row in table.rows]
    return title + _table(table.headings, rows, table.text_columns) + _notes(table.notes)


def _table(headings: Sequence[str], rows: Sequence[str], text_columns: int) -> str:
    head = "".join(
        f'<th scope="col"{_number_class(at, text_columns)}>{text_html(cell)}</th>'
        for at, cell in enumerate(headings)
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _table_row(cells: Sequence[str], text_columns: int) -> str:
    first, *others = cells
    rest = "".join(
        f"<td{_number_class(at, text_columns)}>{text_html(cell)}</td>" for at, cell in enumerate(others, 1)
    )
    return f'<tr><th scope="row">{text_html(first)}</th>{rest}</tr>'


def _group_row(name: str, columns: int) -> str:
    return f'<tr><th scope="rowgroup" class="group" colspan="{columns}">{text_html(name)}</th></tr>'


def _number_class(column: int, text_columns: int) -> str:
    return ' class="number"' if column >= text_columns else ""


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"<p>{text_html(note)}</p>" for note in notes)
