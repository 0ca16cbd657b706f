"""A scalar head over JSONL: `reasongenrm scalar score | best | rank`, from a file or stdin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.reading import raw_lines
from reasongenrm.records import Drop
from reasongenrm.records_json import to_json
from reasongenrm.scalar import ScalarRewardModel
from reasongenrm.stages.ask import Question, complain, read_questions
from reasongenrm.stages.progress import say
from reasongenrm.store import dump_line, jsonl_writer

WINDOW = 1024
"""Rows that are scored together."""

COLUMNS: dict[str, tuple[str, ...]] = {"score": ("answer",), "best": (), "rank": ()}
"""Verb -> the columns that hold a row's answers; none: a list in the column `answers`."""


def score_rows(verb: str, model: str, source: str, target: str, *, batch_size: int = 32) -> None:
    """Score every row of `source` and write one result per row to `target`, in their order.

    A row of `score` gets `{"id", "score"}`, one of `rank` `{"id", "order", "scores"}` (places of the answers, the best
    first), one of `best` `{"id", "index", "answer", "scores"}`. Memory does not grow with the rows. A file is written
    as a whole. Rows that cannot be read are counted, and written to `<target>.dropped.jsonl`, or to stderr where the
    results go to stdout.

    Args:
        verb: a key of COLUMNS.
        model: folder of a trained head.
        source: a JSONL file, or `-` for stdin.
        target: a JSONL file, or `-` for stdout.
        batch_size: answers per forward pass.

    Raises:
        ConfigError: `target` is there already.
        DataError: `source` cannot be opened, or no row can be read.
        EngineError: the folder holds no trained head.
    """
    if target != "-" and Path(target).exists():
        raise ConfigError("it is there already", where=target, mend="name another file, or remove it")
    head = ScalarRewardModel.from_pretrained(model)
    questions = read_questions(raw_lines(source), COLUMNS[verb])
    with ExitStack() as stack:
        write: Callable[[dict[str, Any]], None] = lambda row: print(dump_line(row), end="")  # noqa: E731
        drop: Callable[[Drop], None] = complain
        if target != "-":
            write = stack.enter_context(jsonl_writer(Path(target)))
            drops = stack.enter_context(jsonl_writer(Path(f"{target}.dropped.jsonl")))
            drop = lambda one: drops(to_json(one))  # noqa: E731
        done = dropped = 0
        while window := list(islice(questions, WINDOW)):
            for item in window:
                if isinstance(item, Drop):
                    dropped += 1
                    drop(item)
            for row in _rows(verb, head, [item for item in window if isinstance(item, Question)], batch_size):
                done += 1
                write(row)
            sys.stdout.flush()
        if not done:
            raise DataError("no row can be read", where=source, mend=f"a row has {_wanted(verb)}")
    if target != "-":
        if not dropped:
            Path(f"{target}.dropped.jsonl").unlink()
        say(f"{target}: {done} rows" + (f", {dropped} dropped" if dropped else ""))


def _wanted(verb: str) -> str:
    return "prompt, answer" if verb == "score" else "prompt, answers"


def _rows(
    verb: str, head: ScalarRewardModel, questions: Iterable[Question], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield a result per row; the answers of all rows are scored together."""
    rows = list(questions)
    prompts = [row.prompt for row in rows for _ in row.answers]
    scores = iter(head.score_batch(prompts, [text for row in rows for text in row.answers], batch_size))
    for row in rows:
        own = list(islice(scores, len(row.answers)))
        order = sorted(range(len(own)), key=lambda i: -own[i])
        if verb == "score":
            yield {"id": row.id, "score": own[0]}
        elif verb == "rank":
            yield {"id": row.id, "order": order, "scores": own}
        else:
            yield {"id": row.id, "index": order[0], "answer": row.answers[order[0]], "scores": own}
