"""`reasongenrm rationale`: reasons of a finished stage 3 -> a second judge's matches with people's points -> table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reasongenrm.benchmarks.helpsteer3 import FIRST, POINTS
from reasongenrm.chat.matching_prompt import MatchingPrompt
from reasongenrm.config.engines import APIConfig
from reasongenrm.config.models import row_name
from reasongenrm.console import bar, say, stdout
from reasongenrm.engines.base import Request, complete_missing
from reasongenrm.engines.loading import open_server
from reasongenrm.errors import DataError
from reasongenrm.judge.rationale import SCHEMA, Consistency, consistency, read_matches, sentences_of
from reasongenrm.lock import hold
from reasongenrm.metrics.intervals import Interval, clustered_interval
from reasongenrm.records import Message, content_id
from reasongenrm.report.tables import TextTable, with_interval
from reasongenrm.run import file_hash
from reasongenrm.store import PartStore, completion_from_json, read_jsonl, write_json, write_text

CONTEXT = 32_768
"""Tokens of prompt and completion together: servers that take messages know their own limit."""

MAX_TOKENS = 2048
"""Of an answer of the second judge, thoughts included."""


@dataclass(frozen=True, slots=True)
class _Reason:
    """A reason of one order of a pair.

    Attributes:
        row, model: where it comes from.
        right: whether its verdict is right.
        points: of people.
        sentences: of the reason; empty where there is none.
        messages: of the request for matches.
    """

    row: str
    model: str
    right: bool
    points: tuple[str, ...]
    sentences: tuple[str, ...]
    messages: tuple[Message, ...]

    @property
    def id(self) -> str:
        return content_id(self.messages)


def rationale(folder: Path, benchmark: str, server: APIConfig, prompt: str) -> None:
    """Write, for every judge of a run that gives reasons, how many of people's points they contain; and print the table.

    The second judge's answers are kept in `rationale/<benchmark>/<second judge>-<hash of the wording>/`; the same command
    continues after a kill, and a judge that is added later costs its own reasons alone.

    Args:
        folder: run folder of a finished stage 3.
        benchmark: its name in the run; its rows have points.
        server: the second judge.
        prompt: the wording, see `MatchingPrompt`.

    Raises:
        ConfigError: the wording cannot be used.
        DataError: the run has no such benchmark, rows without points, or no reasons.
        EngineError: the second judge cannot be used.
    """
    wording = MatchingPrompt.load(prompt)
    reasons = list(_reasons(folder, benchmark, wording))
    target = folder / "rationale" / benchmark / f"{row_name(server.model)}-{file_hash(prompt)[:8]}"
    asked = {reason.id: reason for reason in reasons if reason.sentences}
    with hold(target):
        store = PartStore(target / "completions.jsonl")
        if missing := [reason for name, reason in asked.items() if name not in store]:
            engine = open_server(
                server, max_model_len=CONTEXT, state=target / "batches.jsonl", key="server", on_event=say
            )
            with closing(engine), bar("matching", len(missing)) as progress:
                complete_missing(engine, map(_request, missing), store, progress=progress)
        report = _report(reasons, store)
        facts = {"benchmark": benchmark, "second_judge": server.model, "prompt": prompt}
        write_json(target / "rationale.json", facts | {"models": report})
        table = _table(report, server.model)
        write_text(
            target / "rationale.md", f"# Reasons and people's points: {benchmark}\n\n{table.markdown()}"
        )
    from rich.console import Console

    Console(file=stdout(), width=120).print(table.rich(narrow=True))
    say(f"report: {target / 'rationale.md'}")


def _request(reason: _Reason) -> Request:
    return Request(
        reason.id, (), max_tokens=MAX_TOKENS, messages=reason.messages, thoughts=True, schema=SCHEMA
    )


def _reasons(folder: Path, benchmark: str, wording: MatchingPrompt) -> Iterator[_Reason]:
    place = folder / "evaluate" / benchmark
    if not (place / "rows.jsonl").is_file():
        hint = f"run stage 3 with a benchmark of kind helpsteer3 called {benchmark}"
        raise DataError("file not found", location=str(place / "rows.jsonl"), hint=hint)
    rows = {row["id"]: row for row in read_jsonl(place / "rows.jsonl") if row["details"].get(POINTS)}
    if not rows:
        hint = "use a benchmark of kind helpsteer3 with the column human-checklist"
        raise DataError("no row has points of people", location=str(place / "rows.jsonl"), hint=hint)
    files = [file for file in sorted(place.glob("*/verdicts.jsonl")) if _gives_reasons(file)]
    if not files:
        raise DataError(
            "no judge gives reasons here", location=str(place), hint="judge with a template that reasons"
        )
    for file in files:
        for verdict in read_jsonl(file):
            row = rows.get(verdict["pair_id"])
            if row is not None:
                yield _reason(row, verdict, file.parent.name, wording)


def _gives_reasons(file: Path) -> bool:
    return any(verdict["reason"].strip() for verdict in read_jsonl(file))


def _reason(
    row: Mapping[str, Any], verdict: Mapping[str, Any], model: str, wording: MatchingPrompt
) -> _Reason:
    chosen_is_a = verdict["order"] == "AB"
    a_is_first = chosen_is_a == row["details"][FIRST]
    points, sentences = tuple(row["details"][POINTS]), tuple(sentences_of(verdict["reason"]))
    messages = wording.messages(points, sentences, a_is_first=a_is_first)
    right = verdict["winner"] == ("A" if chosen_is_a else "B")
    return _Reason(row["id"], model, right, points, sentences, messages)


def _report(reasons: Sequence[_Reason], store: PartStore) -> dict[str, dict[str, Any]]:
    """Return model -> its numbers; reasons whose matches cannot be read are counted, and are in no mean."""
    found = {}
    for model in dict.fromkeys(reason.model for reason in reasons):
        own = [reason for reason in reasons if reason.model == model]
        counts: Counter[str] = Counter()
        measured: list[tuple[_Reason, Consistency]] = []
        for reason in own:
            if not reason.sentences:
                counts["without_reason"] += 1
                measured.append((reason, Consistency(0.0, 0.0)))
                continue
            numbers = len(reason.points), len(reason.sentences)
            matches = read_matches(completion_from_json(store[reason.id]), *numbers)
            if matches is None:
                counts["unread"] += 1
            else:
                counts["matched"] += 1
                measured.append((reason, consistency(matches, *numbers)))
        found[model] = {
            "reasons": len(own),
            **{key: counts[key] for key in ("matched", "without_reason", "unread")},
        }
        found[model] |= _means(measured)
    return found


def _means(measured: Sequence[tuple[_Reason, Consistency]]) -> dict[str, Any]:
    """Return the means over reasons, with 95% bootstrap intervals over rows."""
    if not measured:
        return dict.fromkeys(("recall", "precision", "f1", "accuracy", "right_without_a_point"))
    rows = [reason.row for reason, _ in measured]
    columns = {
        "recall": [one.recall for _, one in measured],
        "precision": [one.precision for _, one in measured],
        "f1": [one.f1 for _, one in measured],
        "accuracy": [float(reason.right) for reason, _ in measured],
        "right_without_a_point": [float(reason.right and one.recall == 0) for reason, one in measured],
    }
    return {
        name: {"value": fmean(values), "interval": _interval(rows, values)}
        for name, values in columns.items()
    }


def _interval(rows: Sequence[str], values: Sequence[float]) -> Interval | None:
    totals: Counter[str] = Counter()
    for row, value in zip(rows, values, strict=True):
        totals[row] += value  # type: ignore[assignment]
    counts = Counter(rows)
    return clustered_interval(list(totals.values()), [counts[row] for row in totals], seed=17)


def _table(report: Mapping[str, Mapping[str, Any]], second: str) -> TextTable:
    columns = ("recall", "precision", "f1", "accuracy", "right_without_a_point")
    rows = [
        (
            model,
            *(
                with_interval(one[name]["value"], one[name]["interval"]) if one[name] else "–"
                for name in columns
            ),
            *(str(one[name]) for name in ("reasons", "without_reason", "unread")),
        )
        for model, one in report.items()
    ]
    headings = (
        "judge", "recall of points, % [95%]", "precision of sentences, % [95%]", "F1, % [95%]", "right verdicts, % [95%]",
        "right without a point, % [95%]", "reasons", "without a reason", "unread",
    )  # fmt: skip
    notes = (
        f"Matched by {second}, each point with one sentence at most. Reasons whose matches cannot be read (unread) are in no mean.",
    )
    return TextTable(headings, tuple(rows), notes=notes)
