"""The history of the tab Try: one line per call in an append-only file, and its rows for other commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reasongenrm.answers.journal import Journal
from reasongenrm.records import Message
from reasongenrm.store import to_json

Kind = Literal["compare", "rank", "rate"]

PLACE = Path("app", "history.jsonl")
"""The file of the history in the folder of the runs."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a judge.

    Attributes:
        time: when it ended, in UTC (ISO 8601).
        judge: the judge's name.
        kind: `compare` (two answers), `rank` or `rate` (each answer).
        prompt: the turns up to and including the last user turn.
        answers: the answers, in the order of the page.
        result: one object for a comparison or a ranking, one per answer for ratings; as in the output of
            `reasongenrm judge compare | rank | rate`.
        seconds: time that the call took.
        rubric: the rubric, if there was one.
        head: folder of the head, if its scores were shown.
        scores: its score of each answer.
    """

    time: str
    judge: str
    kind: Kind
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    result: dict[str, Any] | list[dict[str, Any]]
    seconds: float
    rubric: dict[str, Any] | None = None
    head: str | None = None
    scores: tuple[float, ...] = field(default=())

    def to_row(self) -> dict[str, Any]:
        """Return the call as a line of the history."""
        return to_json(self)

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if isinstance(self.result, list):
            return ", ".join(_number(one.get("rating")) for one in self.result)
        if self.kind == "rank":
            return " > ".join(letter(index) for index in self.result.get("order", []))
        winner = self.result.get("winner")
        words = {"A": "A is better", "B": "B is better", "tie": "a tie"}
        return words.get(str(winner), f"no verdict ({self.result.get('outcome')})")


def letter(index: int) -> str:
    """Return the letter of an answer on the page: A for the first."""
    return chr(ord("A") + index)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


class History:
    """All calls on the pages of one folder of runs; several pages may write it at the same time.

    Args:
        path: the file; created by the first call.
    """

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, Call)
        self.path = path

    def add(self, call: Call) -> None:
        """Append a call; it is on the disk when this returns.

        Raises:
            DataError: the file cannot be written.
        """
        with self._journal.locked() as file:
            self._journal.append(file, call)

    def calls(self) -> list[Call]:
        """Return all calls, the oldest first.

        Raises:
            DataError: the file cannot be read, or a line is not a call.
        """
        return self._journal.read()


def question_rows(calls: Iterable[Call], kind: Kind) -> Iterator[dict[str, Any]]:
    """Yield the rows of calls of one kind as `reasongenrm judge compare | rank | rate --in` reads them."""
    for call in calls:
        if call.kind != kind:
            continue
        rubric = {"rubric": call.rubric} if call.rubric else {}
        prompt = {"prompt": list(call.prompt)}
        if kind == "compare":
            yield prompt | {"a": call.answers[0], "b": call.answers[1]} | rubric
        elif kind == "rank":
            yield prompt | {"answers": list(call.answers)} | rubric
        else:
            yield from (prompt | {"answer": answer} | rubric for answer in call.answers)


def preference_rows(calls: Iterable[Call]) -> Iterator[dict[str, Any]]:
    """Yield the comparisons that name a better answer as rows of `data.sources` of stage 1: chosen, rejected.

    The preference is the judge's. Ties, and comparisons that could not be read, have none.
    """
    for call in calls:
        if call.kind != "compare" or not isinstance(call.result, dict):
            continue
        if call.result.get("winner") in ("A", "B"):
            sides = call.answers if call.result["winner"] == "A" else call.answers[::-1]
            chosen, rejected = ([*call.prompt, Message(role="assistant", content=answer)] for answer in sides)
            yield {"chosen": chosen, "rejected": rejected, "source": f"judge {call.judge}"}
