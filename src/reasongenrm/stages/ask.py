"""The judge over JSONL: `reasongenrm judge compare | rank | best | score`, from a file or stdin."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from reasongenrm.console import judging_bar, say
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.tournament import Ranking, rank, seated
from reasongenrm.judge.verdicts import preference
from reasongenrm.records import Comparison, Drop, Message, content_id
from reasongenrm.rows.files import JsonLine, RawRow, json_lines
from reasongenrm.rows.turns import BadRow, check_text, is_list, read_prompt
from reasongenrm.store import PartStore, dump_line, jsonl_writer, to_json

WINDOW = 512
"""Rows that go to the judge together, and are kept together."""

MOST_ANSWERS = 256
"""Answers of one row: a round robin of them asks for 32,640 comparisons."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of the input.

    Attributes:
        id: the row's own, else a content hash; a repeated one gets `-2`, `-3`, …
        prompt: the turns up to and including the last user turn.
        answers: two or more; of `score` the answer and its reference.
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


def read_questions(lines: Iterable[JsonLine], names: Sequence[str]) -> Iterator[Question | Drop]:
    """Yield one item per line.

    Args:
        lines: of JSON objects with `prompt` (a text or messages), answers, and perhaps `id`.
        names: the columns that hold the answers; a column `answers` holds a list when none are given.
    """
    met: Counter[str] = Counter()
    for line in lines:
        row = line.decode()
        if isinstance(row, RawRow):
            try:
                prompt = read_prompt(row.columns.get("prompt"), "prompt")
                answers = _answers(row.columns, names)
            except BadRow as bad:
                yield Drop(row.location, line.origin, bad.reason, bad.detail, "load")
                continue
            own = row.columns.get("id")
            name = str(own) if isinstance(own, (str, int)) else content_id(prompt, answers)
            met[name] += 1
            yield Question(name if met[name] == 1 else f"{name}-{met[name]}", prompt, answers)
        else:
            yield row


def compared(
    judge: Judge, questions: Sequence[Question]
) -> Iterator[tuple[dict[str, Any], list[Comparison]]]:
    """Yield what the judge says of each question's two answers."""
    for found in judge.compare_many([(q.prompt, *q.answers) for q in questions]):  # type: ignore[misc]
        yield to_json(found), [found]


def scored(judge: Judge, questions: Sequence[Question]) -> Iterator[tuple[dict[str, Any], list[Comparison]]]:
    """Yield P(answer beats reference) for each question."""
    for row, [found] in compared(judge, questions):
        yield {"score": preference(found), **row}, [found]


def _told(ranking: Ranking) -> dict[str, Any]:
    games = [
        {"first": g.first, "second": g.second, **{k: getattr(g.comparison, k) for k in ("winner", "prob_a", "outcome", "reason")}}
        for g in ranking.games
    ]  # fmt: skip
    return {"order": ranking.order, "ratings": ranking.ratings, "unread": ranking.unread, "games": games}


def ranked(judge: Judge, questions: Sequence[Question]) -> Iterator[tuple[dict[str, Any], list[Comparison]]]:
    """Yield a round robin's ranking for each question; the games of all questions go to the engine together."""
    games = [
        (number, *seated(pair))
        for number, q in enumerate(questions)
        for pair in combinations(range(len(q.answers)), 2)
    ]
    rows = [(questions[n].prompt, questions[n].answers[i], questions[n].answers[j]) for n, i, j in games]
    found = dict(zip(games, judge.compare_many(rows), strict=True))
    for number, question in enumerate(questions):

        def played(asked: Sequence[tuple[int, int]], number: int = number) -> list[Comparison]:
            return [found[number, i, j] for i, j in asked]

        ranking = rank(len(question.answers), played, method="round_robin")
        yield _told(ranking), [game.comparison for game in ranking.games]


def best(judge: Judge, questions: Sequence[Question]) -> Iterator[tuple[dict[str, Any], list[Comparison]]]:
    """Yield the winner of a knockout for each question."""
    for question in questions:
        found = judge.best_of_n(question.prompt, question.answers)
        row = {"index": found.index, "answer": found.answer, **_told(found.ranking)}
        yield row, [game.comparison for game in found.ranking.games]


VERBS: dict[str, tuple[Callable[..., Iterator[tuple[dict[str, Any], list[Comparison]]]], tuple[str, ...]]] = {
    "compare": (compared, ("a", "b")),
    "rank": (ranked, ()),
    "best": (best, ()),
    "score": (scored, ("answer", "reference")),
}


def ask(verb: str, judge: Callable[[], Judge], source: str, target: str) -> None:
    """Judge every row of `source` and write one result per row to `target`, in their order.

    A file is written as a whole when all is done; what a killed command had done is kept beside it, and the same
    command goes on from there. Rows that cannot be read are counted, and written to `<target>.dropped.jsonl`, or to
    stderr where the results go to stdout.

    Args:
        verb: one of VERBS.
        judge: starts the judge, when there is something left to ask.
        source: a JSONL file, or `-` for stdin.
        target: a JSONL file, or `-` for stdout.

    Raises:
        ConfigError: `target` is there already.
        DataError: `source` cannot be opened.
        EngineError: the judge cannot be served.
    """
    work, names = VERBS[verb]
    questions = read_questions(json_lines(source), names)
    with ExitStack() as stack:
        if target == "-":
            told = _ask(work, judge, questions, None, complain)
        else:
            store = PartStore(Path(target))
            if store.finished:
                raise ConfigError(
                    "it is there already", location=target, hint="name another file, or remove it"
                )
            drop = stack.enter_context(jsonl_writer(Path(f"{target}.dropped.jsonl")))
            told = _ask(work, judge, questions, store, lambda d: drop(to_json(d)))
    if target != "-":
        if not told["dropped"]:
            Path(f"{target}.dropped.jsonl").unlink()
        say(f"{target}: {', '.join(f'{count} {name}' for name, count in told.items() if count)}")


def complain(drop: Drop) -> None:
    """Print a row that is left out to stderr."""
    print(f"reasongenrm: {drop.location}: left out ({drop.reason}): {drop.detail}", file=sys.stderr)


def _ask(
    work: Callable[..., Iterator[tuple[dict[str, Any], list[Comparison]]]],
    start: Callable[[], Judge],
    questions: Iterator[Question | Drop],
    store: PartStore | None,
    on_drop: Callable[[Drop], None],
) -> Counter[str]:
    told: Counter[str] = Counter()
    order: list[str] = []
    judge: Judge | None = None
    with judging_bar("judging") as progress:
        while window := list(islice(questions, WINDOW)):
            for drop in (item for item in window if isinstance(item, Drop)):
                told["dropped"] += 1
                on_drop(drop)
            good = [item for item in window if isinstance(item, Question)]
            if store is not None:
                order += [question.id for question in good]
                known = [question for question in good if question.id in store]
                progress(len(known), [])
                good = [question for question in good if question.id not in store]
            if not good:
                continue
            judge = judge or start()
            for question, (row, comparisons) in zip(good, work(judge, good), strict=True):
                line = {**row, "id": question.id}
                if store is not None:
                    store.append([line])
                else:
                    sys.stdout.write(dump_line(line))
                progress(1, comparisons)
            sys.stdout.flush()
    if judge is not None:
        judge.close()
    if store is not None:
        if not order:
            raise DataError("no row can be read", location=str(store.final), hint="see the file beside it")
        told["rows"] = len(order)
        store.finish(order)
    return told
