"""`reasongenrm judge compare | rank | best | score`: judge the rows of a JSONL file, or of stdin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from reasongenrm.console import judging_bar, say, stdout
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.tournament import Ranking, game_order, rank
from reasongenrm.judge.verdicts import preference
from reasongenrm.records import Comparison, Drop, Message, content_id
from reasongenrm.rows.files import JsonLine, json_lines
from reasongenrm.rows.turns import BadRow, check_text, is_list, read_prompt
from reasongenrm.store import PartStore, dump_line, jsonl_writer, to_json

WINDOW = 512
"""Rows that are judged together."""

MOST_ANSWERS = 256
"""Limit for one row: a round robin of 256 answers takes 32,640 comparisons."""


Result = tuple[dict[str, Any], list[Comparison]]
"""A row's result as JSON, and the comparisons behind it."""


@dataclass(frozen=True, slots=True)
class AnswersRow:
    """One row of the input: a prompt with answers.

    Attributes:
        id: the row's id, or a content hash; a repeated one gets `-2`, `-3`, …
        prompt: the turns up to and including the last user turn.
        answers: one or more; for `score` the answer and its reference.
    """

    id: str
    prompt: list[Message]
    answers: tuple[str, ...]


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


def read_answer_rows(lines: Iterable[JsonLine], names: Sequence[str]) -> Iterator[AnswersRow | Drop]:
    """Yield a row, or a Drop, for each line.

    Args:
        lines: JSON objects with `prompt` (a text or messages), answers, and optionally `id`.
        names: the columns that hold the answers; without names, the column `answers` holds a list.
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
        except BadRow as bad:
            yield Drop(row.location, line.origin, bad.reason, bad.detail, "load")
            continue
        own = row.columns.get("id")
        name = str(own) if isinstance(own, (str, int)) else content_id(prompt, answers)
        repeats[name] += 1
        yield AnswersRow(name if repeats[name] == 1 else f"{name}-{repeats[name]}", prompt, answers)


def _compare(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    for comparison in judge.compare_many([(row.prompt, *row.answers) for row in rows]):  # type: ignore[misc]
        yield to_json(comparison), [comparison]


def _score(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield P(answer beats reference) for each row."""
    for columns, [comparison] in _compare(judge, rows):
        yield {"score": preference(comparison), **columns}, [comparison]


def _ranking_columns(ranking: Ranking) -> dict[str, Any]:
    names = ("winner", "prob_a", "outcome", "reason", "reasons")
    games = [
        {
            "first": game.first,
            "second": game.second,
            **{name: getattr(game.comparison, name) for name in names},
        }
        for game in ranking.games
    ]
    return {"order": ranking.order, "ratings": ranking.ratings, "unread": ranking.unread, "games": games}


def _rank(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield a round robin's ranking for each row; the games of all rows go to the engine together."""
    games = [
        (number, *game_order(pair))
        for number, row in enumerate(rows)
        for pair in combinations(range(len(row.answers)), 2)
    ]
    answers = [
        (rows[n].prompt, rows[n].answers[first], rows[n].answers[second]) for n, first, second in games
    ]
    comparisons = dict(zip(games, judge.compare_many(answers), strict=True))
    for number, row in enumerate(rows):

        def play(pairs: Sequence[tuple[int, int]], number: int = number) -> list[Comparison]:
            return [comparisons[number, first, second] for first, second in pairs]

        ranking = rank(len(row.answers), play, method="round_robin")
        yield _ranking_columns(ranking), [game.comparison for game in ranking.games]


def _best(judge: Judge, rows: Sequence[AnswersRow]) -> Iterator[Result]:
    """Yield the winner of a knockout for each row."""
    for row in rows:
        best = judge.best_of_n(row.prompt, row.answers)
        columns = {"index": best.index, "answer": best.answer, **_ranking_columns(best.ranking)}
        yield columns, [game.comparison for game in best.ranking.games]


Verb = Callable[[Judge, Sequence[AnswersRow]], Iterator[Result]]

VERBS: dict[str, tuple[Verb, tuple[str, ...]]] = {
    "compare": (_compare, ("a", "b")),
    "rank": (_rank, ()),
    "best": (_best, ()),
    "score": (_score, ("answer", "reference")),
}
"""Verb -> its function, and the columns with the answers; without columns, `answers` holds a list."""


def ask(verb: str, judge: Callable[[], Judge], source: str, target: str) -> None:
    """Judge every row of `source` and write one result per row to `target`, in their order.

    The file is complete or absent; a partial file beside it keeps the results of an interrupted command, and the same
    command continues. Rows that cannot be read are counted, and written to `<target>.dropped.jsonl`, or to stderr where
    the results go to stdout.

    Args:
        verb: one of VERBS.
        judge: starts the judge; called only when a row is left to judge.
        source: a JSONL file, or `-` for stdin.
        target: a JSONL file, or `-` for stdout.

    Raises:
        ConfigError: `target` exists.
        DataError: `source` cannot be opened, or no row can be read.
        EngineError: the judge cannot be served.
    """
    judge_rows, names = VERBS[verb]
    rows = read_answer_rows(json_lines(source), names)
    with ExitStack() as stack:
        if target == "-":
            counts = _ask(judge_rows, judge, rows, None, print_drop)
        else:
            store = PartStore(Path(target))
            if store.finished:
                raise ConfigError(
                    "the file exists", location=target, hint="name another file, or move this one away"
                )
            drop = stack.enter_context(jsonl_writer(Path(f"{target}.dropped.jsonl")))
            counts = _ask(judge_rows, judge, rows, store, lambda d: drop(to_json(d)))
    if target != "-":
        if not counts["dropped"]:
            Path(f"{target}.dropped.jsonl").unlink()
        say(f"{target}: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}")


def print_drop(drop: Drop) -> None:
    """Print a dropped row to stderr."""
    say(f"reasongenrm: {drop.location}: dropped ({drop.reason}): {drop.detail}")


def _ask(
    judge_rows: Verb,
    start: Callable[[], Judge],
    rows: Iterator[AnswersRow | Drop],
    store: PartStore | None,
    on_drop: Callable[[Drop], None],
) -> Counter[str]:
    counts: Counter[str] = Counter()
    order: list[str] = []
    rows_read = 0
    judge: Judge | None = None
    with judging_bar("judging") as progress:
        while window := list(islice(rows, WINDOW)):
            for drop in (item for item in window if isinstance(item, Drop)):
                counts["dropped"] += 1
                on_drop(drop)
            missing = [item for item in window if isinstance(item, AnswersRow)]
            rows_read += len(missing)
            if store is not None:
                order += [row.id for row in missing]
                count = len(missing)
                missing = [row for row in missing if row.id not in store]
                progress(count - len(missing), [])
            if not missing:
                continue
            judge = judge or start()
            for row, (columns, comparisons) in zip(missing, judge_rows(judge, missing), strict=True):
                line = {**columns, "id": row.id}
                if store is not None:
                    store.append([line])
                else:
                    stdout().write(dump_line(line))
                progress(1, comparisons)
            stdout().flush()
    if judge is not None:
        judge.close()
    if not rows_read and (store is not None or counts["dropped"]):
        hint = "see the file of dropped rows" if store is not None else "see the dropped rows above"
        raise DataError(
            "no row can be read", location=str(store.final) if store is not None else "input", hint=hint
        )
    if store is not None:
        counts["rows"] = len(order)
        store.finish(order)
    return counts
