"""`reasongenrm judge compare | rank | best | score | rate`: judge the rows of a JSONL file, or of stdin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from reasongenrm import collector
from reasongenrm.config.rubric import Rubric
from reasongenrm.console import judging_bar, say, show_line, stdout
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.ask import preference
from reasongenrm.judge.columns import comparison_columns, ranking_columns, rating_columns
from reasongenrm.judge.inputs import PlacedRow, with_rubric
from reasongenrm.judge.tournament import game_order, rank
from reasongenrm.records import CRITERIA, Comparison, Drop, Message, Rating, content_id, with_criteria
from reasongenrm.rows.files import JsonLine, json_lines
from reasongenrm.rows.turns import (
    RUBRIC,
    BadRow,
    check_text,
    is_list,
    read_criteria,
    read_prompt,
    read_rubric,
)
from reasongenrm.store import PartStore, dump_line, jsonl_writer, to_json

WINDOW = 512
"""Rows that are judged, or scored, together."""

MOST_ANSWERS = 256
"""Limit for one row: a round robin of 256 answers takes 32,640 comparisons."""

Judged = Sequence[Comparison] | Sequence[Rating]

Result = tuple[dict[str, Any], Judged]
"""A row's result as JSON, and the comparisons, or ratings, behind it."""


@dataclass(frozen=True, slots=True)
class AnswersRow:
    """One row of the input: a prompt with answers.

    Attributes:
        id: the row's id, or a content hash; a repeated one gets `-2`, `-3`, …
        prompt: the turns up to and including the last user turn, after the row's criteria.
        answers: one or more; for `score` the answer and its reference.
        rubric: criteria by each of which the answers are judged alone, if there are any.
    """

    id: str
    prompt: list[Message]
    answers: tuple[str, ...]
    rubric: Rubric | None = None


def _answers(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    if names:
        missing = [name for name in names if name not in row]
        if missing:
            raise BadRow(
                "missing_column", f"There is no `{missing[0]}`; a row has prompt, {', '.join(names)}."
            )
        return tuple(check_text(row[name], name) for name in names)
    answers = row.get("answers")
    if not is_list(answers) or not answers:
        raise BadRow("bad_type", "`answers` must be a list of one text or more.")
    if len(answers) > MOST_ANSWERS:
        raise BadRow("too_many_answers", f"{len(answers)} answers; give {MOST_ANSWERS} at most.")
    return tuple(check_text(answer, f"answers[{number}]") for number, answer in enumerate(answers))


def _criteria(row: Mapping[str, Any], rubric: Rubric | None) -> tuple[str, Rubric | None]:
    """Return the criteria that a row's prompt shows together, and the rubric; those of the row come before the caller's."""
    criteria, own = read_criteria(row.get(CRITERIA)), read_rubric(row.get(RUBRIC))
    if criteria and own:
        detail = f"The row has `{CRITERIA}`, which are judged together, and `{RUBRIC}`, each of which is judged alone; keep one."
        raise BadRow("criteria_and_rubric", detail)
    return criteria, own or (None if criteria else rubric)


def read_answer_rows(
    lines: Iterable[JsonLine], names: Sequence[str], rubric: Rubric | None = None
) -> Iterator[AnswersRow | Drop]:
    """Yield a row, or a Drop, for each line.

    Args:
        lines: JSON objects with `prompt` (a text or messages), answers, and optionally `id`, and `criteria` or `rubric`.
        names: the columns that hold the answers; without names, the column `answers` holds a list.
        rubric: of rows without criteria and without a rubric of their own.
    """
    repeats: Counter[str] = Counter()
    for line in lines:
        row = line.decode()
        if isinstance(row, Drop):
            yield row
            continue
        try:
            prompt = read_prompt(row.columns.get("prompt"), "prompt")
            answers = _answers(row.columns, names)
            criteria, own_rubric = _criteria(row.columns, rubric)
        except BadRow as bad:
            yield Drop(row.location, line.origin, bad.reason, bad.detail, "load")
            continue
        own = row.columns.get("id")
        name = str(own) if isinstance(own, (str, int)) else content_id(prompt, answers)
        repeats[name] += 1
        name = name if repeats[name] == 1 else f"{name}-{repeats[name]}"
        yield AnswersRow(name, with_criteria(prompt, criteria), answers, own_rubric)


def _compare(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield a comparison for each row; with a rubric, those by each criterion are in `criteria`."""
    for comparison in judge.compare_many(
        [with_rubric((row.prompt, *row.answers), row.rubric) for row in rows]
    ):
        yield comparison_columns(comparison), [comparison]


def _rate(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield a rating for each row, with its score in [0, 1]; with a rubric, those by each criterion are in `criteria`."""
    for rating in judge.rate_many([with_rubric((row.prompt, *row.answers), row.rubric) for row in rows]):
        yield rating_columns(rating), [rating]


def _score(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield P(answer beats reference) for each row."""
    for comparison in judge.compare_many(
        [with_rubric((row.prompt, *row.answers), row.rubric) for row in rows]
    ):
        yield {"score": preference(comparison), **comparison_columns(comparison)}, [comparison]


def _rank(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield a round robin's ranking for each row; the games of all rows go to the engine together."""
    games = [
        PlacedRow(with_rubric((row.prompt, row.answers[first], row.answers[second]), row.rubric))
        for row in rows
        for first, second in map(game_order, combinations(range(len(row.answers)), 2))
    ]
    comparisons = judge.compare_many(games)
    for row in rows:
        ranking = rank(len(row.answers), lambda games: list(islice(comparisons, len(games))))
        yield ranking_columns(ranking), [game.comparison for game in ranking.games]


def _best(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield the winner of a knockout for each row."""
    for row in rows:
        best = judge.best_of_n(row.prompt, row.answers, rubric=row.rubric)
        columns = {"index": best.index, "answer": best.answer, **ranking_columns(best.ranking)}
        yield columns, [game.comparison for game in best.ranking.games]


Verb = Callable[[Judge, Sequence[AnswersRow]], Iterator[Result]]

VERBS: dict[str, tuple[Verb, tuple[str, ...]]] = {
    "compare": (_compare, ("a", "b")),
    "rank": (_rank, ()),
    "best": (_best, ()),
    "score": (_score, ("answer", "reference")),
    "rate": (_rate, ("answer",)),
}
"""Verb -> its function, and the columns with the answers; without columns, `answers` holds a list."""


def ask(
    verb: str, start: Callable[[], Judge], source: str, target: str, *, rubric: Rubric | None = None
) -> None:
    """Judge every row of `source`, as `write_results`; an interrupted command continues where it stopped.

    Args:
        verb: one of VERBS.
        start: starts the judge; called only when a row is left to judge.
        source, target: see `write_results`.
        rubric: of rows without criteria and without a rubric of their own.

    Raises:
        ConfigError, DataError: see `write_results`.
        EngineError: the judge cannot be served.
    """
    judge_rows, names = VERBS[verb]
    with ExitStack() as stack, judging_bar("judging") as progress:

        @cache
        def judge() -> Judge:
            started = start()
            stack.callback(started.close)
            stack.callback(collector.stop)  # it comes first: nothing but the end follows
            return started

        def results(rows: Sequence[AnswersRow]) -> Iterator[Result]:
            return judge_rows(judge(), rows)

        write_results(results, names, source, target, resume=True, progress=progress, rubric=rubric)


def write_results(
    results: Callable[[Sequence[AnswersRow]], Iterator[Result]],
    names: Sequence[str],
    source: str,
    target: str,
    *,
    resume: bool = False,
    progress: Callable[[int, Judged], None] = lambda rows, judged: None,
    rubric: Rubric | None = None,
) -> None:
    """Write one result per row of `source` to `target`, in their order.

    The file is complete or absent. Rows that cannot be read are counted, and written to `<target>.dropped.jsonl`, or to
    stderr where the results go to stdout.

    Args:
        results: yields the result of each of some rows, at least one.
        names: see `read_answer_rows`.
        source: a JSONL file, or `-` for stdin.
        target: a JSONL file, or `-` for stdout.
        resume: keep the results of an interrupted command in a partial file beside `target`, and continue with it.
        progress: called with the number of rows just found or done, and their comparisons or ratings.
        rubric: see `read_answer_rows`.

    Raises:
        ConfigError: `target` exists.
        DataError: `source` cannot be opened, no row can be read, or another process writes `target`.
    """
    items = read_answer_rows(json_lines(source), names, rubric)
    exists = target != "-" and Path(target).exists()
    store = PartStore(Path(target), marked=False) if resume and target != "-" and not exists else None
    if exists or (store is not None and store.finished):  # another process has just finished it
        raise ConfigError("the file exists", location=target, hint="name another file, or move this one away")
    counts: Counter[str] = Counter()
    order: list[str] = []
    with ExitStack() as stack:
        write: Callable[[dict[str, Any]], object] = lambda line: show_line(dump_line(line))  # noqa: E731
        if store is not None:
            write = lambda line: store.append([line])  # noqa: E731
        elif target != "-":
            write = stack.enter_context(jsonl_writer(Path(target)))
        with _drop_list(target) as list_drop:
            while window := list(islice(items, WINDOW)):
                for drop in (item for item in window if isinstance(item, Drop)):
                    counts["dropped"] += 1
                    list_drop(drop)
                rows = [item for item in window if isinstance(item, AnswersRow)]
                missing = [row for row in rows if store is None or row.id not in store]
                counts["rows"] += len(rows)
                order += [row.id for row in rows if store is not None]
                progress(len(rows) - len(missing), [])
                new_results = results(missing) if missing else ()
                for row, (line, judged) in zip(missing, new_results, strict=True):
                    write(line | {"id": row.id})
                    progress(1, judged)
                stdout().flush()
        if not counts["rows"] and (target != "-" or counts["dropped"]):
            location = "stdin" if source == "-" else source
            hint = f"a row has prompt, {', '.join(names) or 'answers'}; see the dropped rows"
            raise DataError("no row can be read", location=location, hint=hint)
    if store is not None:
        store.finish(order)
    if target != "-":
        say(f"{target}: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}")


@contextmanager
def _drop_list(target: str) -> Iterator[Callable[[Drop], None]]:
    """Yield a function that lists one dropped row beside the target, or on stderr; no drop, no list."""
    if target == "-":
        yield lambda drop: say(f"reasongenrm: {drop.location}: dropped ({drop.reason}): {drop.detail}")
        return
    path = Path(f"{target}.dropped.jsonl")
    with jsonl_writer(path) as write:
        yield lambda drop: write(to_json(drop))
    if not path.stat().st_size:
        path.unlink()
